"""Plans printed, and written as Markdown and JSON."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from partitionsel_jax.planning import hardware, report
from partitionsel_jax.planning.calibration import measure
from partitionsel_jax.planning.compiling import compile_step
from partitionsel_jax.planning.predicting import Assumptions, Prediction, predict

_LOG = logging.getLogger(__name__)


def write_plan(
    config: Mapping[str, Any],
    *,
    devices: Sequence[str],
    pools: Sequence[int],
    models: Sequence[str] = (),
    calibrate: bool = False,
    assumed: Assumptions | None = None,
    output: str | None = None,
) -> None:
    """Logs what steps would take, and writes pods.md and pods.json if asked to.

    Args:
      config: as `ConfigDict.to_dict()` gives it.
      devices: slices, see `hardware.find`.
      pools: numbers of candidates.
      models: checkpoints instead of the config's.
      calibrate: whether small steps are measured here, too.
      assumed: what the predictions assume.
      output: a folder, or None.

    Raises:
      ValueError: devices, pools or models that make no sense together.
      OSError: a folder that cannot be written.
    """
    assumed = assumed or Assumptions()
    slices = [hardware.find(name) for name in devices]
    folder = _folder(output)
    rank, length = config["lora"]["rank"], config["data"]["length"]
    trained = f"LoRA of rank {rank}" if rank else "all weights"
    parts = ["# Steps on devices that are not here, by arithmetic"]
    predictions: dict[str, list[Prediction]] = {}
    for name in models or [config.get("checkpoint") or "random weights"]:
        chosen = {**config, "checkpoint": name} if models else config
        predictions[name] = found = []
        for slice_ in slices:
            _LOG.info("%s on %s: counting", name, slice_.name)
            found += [predict(chosen, slice_, pool, assumed) for pool in pools]
        parts.append(f"## {name}, {trained}, rows of {length} tokens")
        parts += [report.times(found), "Memory of a device in GB:", report.memories(found)]
    numbers: dict[str, Any] = {
        "assumed": dataclasses.asdict(assumed),
        "predictions": report.facts(predictions),
    }
    if calibrate:
        _LOG.info("measuring small steps here")
        measured = measure(config, response=assumed.response)
        parts += ["## Predicted and measured here", report.calibrations(measured, assumed)]
        numbers["calibration"] = [dataclasses.asdict(step) for step in measured]
    parts.append(report.notes(slices, assumed))
    _finish(folder, "pods", parts, numbers)


def write_compiled(
    config: Mapping[str, Any],
    *,
    targets: Sequence[str],
    pools: Sequence[int],
    output: str | None = None,
) -> None:
    """Logs what compilers say of the memory of a step with split weights.

    Args:
      config: as `ConfigDict.to_dict()` gives it.
      targets: see `compile_step`.
      pools: numbers of candidates.
      output: a folder for pods_compiled.md and pods_compiled.json, or None.

    Raises:
      ValueError: targets or pools that make no sense.
      OSError: a folder that cannot be written.
    """
    folder, found = _folder(output), []
    for target in targets:
        for pool in pools:
            _LOG.info("%s, a pool of %d: compiling, which takes minutes", target, pool)
            found.append(compile_step(config, target, pool))
    parts = [f"# Memory of a device as compilers lay it out: {config.get('checkpoint')}"]
    parts += [report.compiled(found), "By arithmetic, in GB:", report.arithmetic(found)]
    parts.append(report.COMPILED_NOTES)
    _finish(folder, "pods_compiled", parts, [dataclasses.asdict(each) for each in found])


def _folder(output: str | None) -> epath.Path | None:
    """Made before what takes minutes."""
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
