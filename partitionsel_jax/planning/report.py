"""Plans as text: how long steps would take, what they would hold, and by which assumptions."""

import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from partitionsel_jax.planning.checks import calibrate, compile_step
from partitionsel_jax.planning.hardware import CHIPS, find
from partitionsel_jax.planning.predictions import (
    FILL,
    NETWORK,
    PICK_SECONDS,
    RESPONSE,
    UTILISATION,
    Record,
    predict,
)
from partitionsel_jax.text_table import of_records

_LOG = logging.getLogger(__name__)
_CALIBRATED = """\
A small model on one device of this machine; its peak is that of large square products, timed by
turns with the step."""
_COMPILED = """\
* Shapes alone: no weights, no devices. Arguments are weights, state and rows; temporary is all
  else, of which a compiler may reuse parts.
* TPU figures are those of the TPU's compiler (package libtpu). CPU figures are in float32
  throughout, since the CPU computes bfloat16 by way of float32 copies of whole weights: twice what
  bfloat16 takes of weights and activations.
* `by arithmetic` is the estimate of pods.md, for the same dtype. GB are 1e9 bytes."""
_NOTES = """\
* Nothing here was measured on such devices. Operations and bytes are counted in the traced program
  (matrix products; a loop as often as it runs; collectives by what a device receives).
* Assumed: products reach {utilisation:.0%} of the peak, all else in a step included;
  collectives 70% of the published bandwidth, and nothing is done meanwhile; a
  step may use 90% of a device's memory; {response:.0%} of a row's tokens are
  learnt.
* Every row is taken at its full length: `data.buckets` leave out 35 to 40 % of the tokens, and as
  much of the time. The share of the pool that is picked is the config's; picks and anchors are
  multiples of the devices.
* Features are new in every step (`features.anchors_every` = 1), but for the mean step: it is that
  of steps which share pools and anchors as the config says (`selection.updates_per_pool`).
  `times random's` is its ratio to a step on as many random rows.
* Selection, the same on every device, reads the picks' rows of the Gram matrix once for each pick
  (4 N K^2 bytes) and all of it 60 times for the certificate; beside that it takes
  50 microseconds a pick.
* `rows a device` are candidates and anchors, filled up to whole microbatches: where 17 are computed
  as 32, features.microbatch=17 takes half as long. v5p slices are named by their cores.
* `features`, `selection`, `update` and `network` are the seconds that the step consists of.
* Weights are split where whole ones do not fit. Every microbatch then gathers them again, forward
  and in the backward pass: larger `features.microbatch` and `training.microbatch` mean less of it.
* `proxy` is the model that selects, `selection.proxy`, where it trains with gradient and
  optimizer's state; `cache` are features that are kept over epochs.
* `trained` holds the gradient too; `selection` is the Gram matrix and the picks' rows of it;
  `gathered` is what split weights are put together into: embedding, head and two layers.
* GB are 1e9 bytes."""


def write_plan(
    config: Mapping[str, Any],
    *,
    devices: Sequence[str],
    pools: Sequence[int],
    models: Sequence[str] = (),
    calibrated: bool = False,
    utilisation: float = UTILISATION,
    response: float = RESPONSE,
    output: str | None = None,
) -> None:
    """Logs what steps would take, and writes pods.md and pods.json if asked to.

    Args:
      config: as `ConfigDict.to_dict()` gives it.
      devices: slices, see `hardware.find`.
      pools: numbers of candidates.
      models: checkpoints instead of the config's.
      calibrated: whether small steps are measured here, too.
      utilisation: share of the peak that matrix products are taken to reach.
      response: share of a row's tokens that its loss counts.
      output: a folder, or None.

    Raises:
      ValueError: devices, pools, models or shares that make no sense.
      OSError: a folder that cannot be written.
    """
    slices, folder = list(map(find, devices)), _folder(output)
    rank, length = config["lora"]["rank"], config["data"]["length"]
    trained = f"LoRA of rank {rank}" if rank else "all weights"
    parts = ["# Steps on devices that are not here, by arithmetic"]
    numbers: dict[str, Any] = {
        "assumed": {
            **{"utilisation": utilisation, "network": NETWORK, "fill": FILL},
            **{"response": response, "pick_seconds": PICK_SECONDS},
        },
        "predictions": {},
    }
    for name in models or [config.get("checkpoint") or "random weights"]:
        chosen = {**config, "checkpoint": name} if models else config
        steps: list[Record] = []
        held: list[Record] = []
        for slice_, pool in itertools.product(slices, pools):
            _LOG.info("%s on %s, a pool of %d: counting", name, slice_.name, pool)
            step, needs = predict(chosen, slice_, pool, utilisation, response)
            steps, held = [*steps, step], [*held, *needs]
        parts.append(f"## {name}, {trained}, rows of {length} tokens{_selected_by(config)}")
        parts += [_table(steps), "Memory of a device in GB:", _table(held)]
        numbers["predictions"][name] = {"steps": steps, "memory": held}
    if calibrated:
        _LOG.info("measuring small steps here")
        numbers["calibration"] = measured = calibrate(config, utilisation, response)
        parts += ["## Predicted and measured here", _CALIBRATED, _table(measured)]
    named = [chip for chip in CHIPS.values() if any(each.chip == chip for each in slices)]
    sources = "".join(f"\n* {chip.kind}: {chip.source}." for chip in named)
    notes = _NOTES.format(utilisation=utilisation, response=response) + sources
    _finish(folder, "pods", [*parts, notes], numbers)


def write_compiled(
    config: Mapping[str, Any],
    *,
    targets: Sequence[str],
    pools: Sequence[int],
    output: str | None = None,
) -> None:
    """Logs what compilers say of the memory of a step with split weights.

    Args:
      config, pools: see `write_plan`.
      targets: see `compile_step`.
      output: a folder for pods_compiled.md and pods_compiled.json, or None.

    Raises:
      ValueError: targets or pools that make no sense.
      OSError: a folder that cannot be written.
    """
    folder, found = _folder(output), []
    for target, pool in itertools.product(targets, pools):
        _LOG.info("%s, a pool of %d: compiling, which takes minutes", target, pool)
        found.append(compile_step(config, target, pool))
    compiled, arithmetic = map(list, zip(*found, strict=True))
    title = f"# Memory of a device as compilers lay it out: {config.get('checkpoint')}"
    parts = [title + _selected_by(config)]
    parts += [_table(compiled), "By arithmetic, in GB:", _table(arithmetic), _COMPILED]
    _finish(folder, "pods_compiled", parts, {"compiled": compiled, "arithmetic": arithmetic})


def _selected_by(config: Mapping[str, Any]) -> str:
    """The end of a title that names the proxy; empty where there is none."""
    proxy = config["selection"].get("proxy", "")
    return f", selected for by {proxy}" if proxy else ""


def _table(records: Sequence[Record]) -> str:
    return of_records([{name: _cell(one[name]) for name in one} for one in records])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return value if isinstance(value, str) else f"{value:,}"


def _folder(output: str | None) -> epath.Path | None:
    """The folder, made before what takes minutes."""
    if output is None:
        return None
    folder = epath.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _finish(folder: epath.Path | None, name: str, parts: Sequence[str], numbers: Any) -> None:
    text = "\n\n".join(parts)
    _LOG.info("\n%s", text)
    if folder is not None:
        (folder / f"{name}.md").write_text(text + "\n")
        (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
        _LOG.info("written: %s", os.fspath(folder / f"{name}.md"))
