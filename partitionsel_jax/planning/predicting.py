"""How long a step would take on devices that are not here, and whether it fits into them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.planning.hardware import Chip, Slice
from partitionsel_jax.planning.memory import Memory, memory_of
from partitionsel_jax.planning.runs import planned
from partitionsel_jax.step.counting import Counts
from partitionsel_jax.step.operations import stages_of


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What no table publishes.

    Attributes:
      utilisation: share of the peak that matrix products reach, all else of a step included.
      network: share of the published bandwidth that collectives reach.
      fill: share of a device's memory that a step may use.
      response: share of a row's tokens that its loss counts.
      pick_seconds: what a round of selection takes however little it reads: some ten small kernels.

    Raises:
      ValueError: a share outside (0, 1], or seconds below 0.
    """

    utilisation: float = 0.4
    network: float = 0.7
    fill: float = 0.9
    response: float = 0.5
    pick_seconds: float = 5e-5

    def __post_init__(self):
        for name in ("utilisation", "network", "fill", "response"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in (0, 1], not {getattr(self, name)}")
        if not self.pick_seconds >= 0:
            raise ValueError(f"pick_seconds must be at least 0, not {self.pick_seconds}")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One step on a slice. Times are seconds, and nothing overlaps; see `Stages` for the counts.

    Attributes:
      devices: the slice's name.
      chips: how many.
      pool, picks: rows of the step.
      rows, computed: candidates and anchors of a device, without and with those that fill up the
        last microbatch.
      split: whether every device keeps a part of each weight: only where the whole does not fit.
      features, selection, update, network: what its time goes into.
      received: bytes that reach a device over the network.
      products: operations of a device's matrix products.
      whole, parts: bytes on a device with whole weights, and with split ones.
      fits: into a device's memory.
    """

    devices: str
    chips: int
    pool: int
    picks: int
    rows: int
    computed: int
    split: bool
    features: float
    selection: float
    update: float
    network: float
    received: float
    products: float
    whole: Memory
    parts: Memory
    fits: bool

    @property
    def memory(self) -> Memory:
        """Bytes on a device as planned."""
        return self.parts if self.split else self.whole

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.features + self.selection + self.update + self.network


def predict(
    config: Mapping[str, Any], slice_: Slice, pool: int, assumed: Assumptions
) -> Prediction:
    """Predicts one step of a config.

    Raises:
      ValueError: see `runs.planned`.
    """
    chip, room = slice_.chip, assumed.fill * slice_.chip.memory
    forms = {
        split: planned(config, devices=slice_.devices, pool=pool, split_weights=split)
        for split in (False, True)
        if not split or config["model"].get("remat", "none") != "none"
    }
    needs = {split: memory_of(settings) for split, settings in forms.items()}
    split = needs[False].total > room and True in forms
    settings = forms[split]
    stages = stages_of(settings, assumed.response)
    rows = (settings.selection.pool + settings.selection.anchors) // slice_.devices
    size = min(settings.features.microbatch, rows)
    received = stages.features.received + stages.update.received
    return Prediction(
        devices=slice_.name,
        chips=slice_.devices,
        pool=pool,
        picks=settings.selection.size,
        rows=rows,
        computed=size * math.ceil(rows / size),
        split=split,
        features=_seconds(stages.features, chip, assumed),
        selection=stages.read / chip.bandwidth + stages.picks * assumed.pick_seconds,
        update=_seconds(stages.update, chip, assumed),
        network=received / (slice_.network * assumed.network),
        received=received,
        products=stages.features.products + stages.update.products,
        whole=needs[False],
        parts=needs.get(True, needs[False]),
        fits=needs[split].total <= room,
    )


def _seconds(counts: Counts, chip: Chip, assumed: Assumptions) -> float:
    effort = counts.products + (chip.exact - 1) * counts.exact
    return effort / (chip.peak * assumed.utilisation)
