"""A plan as text: what steps would take, what they would hold, and by which assumptions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from partitionsel_jax.planning.calibration import Calibration
from partitionsel_jax.planning.compiling import Compiled
from partitionsel_jax.planning.hardware import CHIPS, GIGA, Slice
from partitionsel_jax.planning.memory import Memory
from partitionsel_jax.planning.predicting import Assumptions, Prediction
from partitionsel_jax.step.operations import CERTIFICATE
from partitionsel_jax.text_table import markdown

_TIME = (
    *("devices", "pool", "picks", "rows a device", "weights", "step, s", "features", "selection"),
    *("update", "network", "candidates/s", "received, GB", "memory, GB", "fits"),
)
_MEMORY = (
    *("devices", "pool", "base whole", "base split", "trained", "optimizer", "features"),
    *("selection", "rows", "activations", "gathered", "all, whole", "all, split"),
)
_COMPILED = (
    *("compiled for", "devices", "pool", "weights", "layers", "dtype", "arguments, GB"),
    *("temporary, GB", "together, GB", "by arithmetic, GB", "compiling, s"),
)

_CALIBRATED = """\
A small model on one device of this machine; its peak is that of large square products, timed by
turns with the step."""
COMPILED_NOTES = """\
* Shapes alone: no weights, no devices. Arguments are weights, state and rows; temporary is all
  else, of which a compiler may reuse parts.
* TPU figures are those of the TPU's compiler (package libtpu). CPU figures are in float32
  throughout, since the CPU computes bfloat16 by way of float32 copies of whole weights: twice what
  bfloat16 takes of weights and activations.
* `by arithmetic` is the estimate of pods.md, for the same dtype. GB are 1e9 bytes."""


def times(predictions: Sequence[Prediction]) -> str:
    """Seconds of a step and what they go into."""
    return markdown(
        _TIME,
        [
            (
                _name(p),
                f"{p.pool:,}",
                f"{p.picks:,}",
                str(p.rows) if p.rows == p.computed else f"{p.rows:,}, computed as {p.computed:,}",
                "split" if p.split else "whole",
                _number(p.seconds),
                *map(_number, (p.features, p.selection, p.update, p.network)),
                f"{p.pool / p.seconds:,.0f}",
                _number(p.received / GIGA),
                f"{p.memory.total / GIGA:.1f}",
                "yes" if p.fits else "no",
            )
            for p in predictions
        ],
    )


def memories(predictions: Sequence[Prediction]) -> str:
    """GB on a device, with whole weights and with split ones."""
    lines = []
    for p in predictions:
        held = p.whole, p.parts
        fields = (dataclasses.asdict(memory) for memory in held)
        whole, split = ({name: value / GIGA for name, value in each.items()} for each in fields)
        same = ("trained", "optimizer", "features", "selection", "rows", "activations")
        lines.append(
            (
                _name(p),
                f"{p.pool:,}",
                _number(whole["base"]),
                _number(split["base"]),
                *(_number(split[name]) for name in same),
                _number(split["gathered"]),
                *(f"{memory.total / GIGA:.1f}" for memory in held),
            )
        )
    return markdown(_MEMORY, lines)


def compiled(found: Sequence[Compiled]) -> str:
    """GB on a device, as a compiler lays them out."""
    return markdown(
        _COMPILED,
        [
            (
                c.target,
                str(c.devices),
                f"{c.pool:,}",
                "split" if c.split else "whole",
                str(c.layers),
                c.dtype,
                *(f"{size / GIGA:.2f}" for size in (c.arguments, c.temporary)),
                *(f"{size / GIGA:.2f}" for size in (c.total, c.arithmetic.total)),
                f"{c.seconds:.0f}",
            )
            for c in found
        ],
    )


def arithmetic(found: Sequence[Compiled]) -> str:
    """GB on a device, by what holds them."""
    fields = [field.name for field in dataclasses.fields(Memory)]
    lines = []
    for c in found:
        sizes = [getattr(c.arithmetic, name) / GIGA for name in fields]
        total = f"{c.arithmetic.total / GIGA:.2f}"
        lines.append((c.target, f"{c.pool:,}", *map(_number, sizes), total))
    return markdown(("compiled for", "pool", *fields, "together"), lines)


def calibrations(found: Sequence[Calibration], assumed: Assumptions) -> str:
    """Measured steps beside predicted ones."""
    headings = (
        *("pool", "operations, 1e9", "peak, 1e9 / s", "measured, s", "utilisation"),
        *(f"predicted at {assumed.utilisation:g}, s", "predicted / measured"),
    )
    lines = []
    for c in found:
        predicted = c.products / (c.peak * assumed.utilisation)
        measured = (c.products / GIGA, c.peak / GIGA, c.seconds, c.utilisation)
        cells = (*measured, predicted, predicted / c.seconds)
        lines.append((str(c.pool), *map(_number, cells)))
    return f"{_CALIBRATED}\n\n{markdown(headings, lines)}"


def notes(slices: Sequence[Slice], assumed: Assumptions) -> str:
    """What the tables rest on."""
    kinds = [kind for kind, chip in CHIPS.items() if any(s.chip == chip for s in slices)]
    sources = "\n".join(f"* {CHIPS[kind].kind}: {CHIPS[kind].source}." for kind in kinds)
    return f"""\
* Nothing here was measured on such devices. Operations and bytes are counted in the traced program
  (matrix products; a loop as often as it runs; collectives by what a device receives).
* Assumed: products reach {assumed.utilisation:.0%} of the peak, all else in a step included;
  collectives {assumed.network:.0%} of the published bandwidth, and nothing is done meanwhile; a
  step may use {assumed.fill:.0%} of a device's memory; {assumed.response:.0%} of a row's tokens are
  learnt.
* Every row is taken at its full length: `data.buckets` leave out 35 to 40 % of the tokens, and as
  much of the time. Features are new in every step (`features.anchors_every` = 1). The share of the
  pool that is picked is the config's; picks and anchors are multiples of the devices.
* Selection, the same on every device, reads the picks' rows of the Gram matrix once for each pick
  (4 N K^2 bytes) and all of it {CERTIFICATE} times for the certificate; beside that it takes
  {assumed.pick_seconds * 1e6:.0f} microseconds a pick.
* `rows a device`: candidates and anchors, filled up to whole microbatches: where 17 are computed as
  32, features.microbatch=17 takes half as long.
* Weights are split where whole ones do not fit. Every microbatch then gathers them again, forward
  and in the backward pass: larger `features.microbatch` and `training.microbatch` mean less of it.
* `trained` holds the gradient too; `selection` is the Gram matrix and the picks' rows of it;
  `gathered` is what split weights are put together into: embedding, head and two layers.
* GB are 1e9 bytes.
{sources}"""


def facts(predictions: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
    """The numbers for JSON."""
    return {
        model: [
            dataclasses.asdict(p)
            | {"seconds": p.seconds}
            | {f"{form}_bytes": getattr(p, form).total for form in ("memory", "whole", "parts")}
            for p in found
        ]
        for model, found in predictions.items()
    }


def _name(prediction: Prediction) -> str:
    devices, chips = prediction.devices, prediction.chips
    return devices if devices.endswith(f"-{chips}") else f"{devices} ({chips} chips)"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
