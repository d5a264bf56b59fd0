"""How one configuration becomes several runs: methods side by side, and repeats over seeds."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.training import corpora, pretrained
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training.essentials import flatten


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
      method: the label under which its seeds are averaged.
      seed: its seed.
      folder: where it goes, relative to the plan's workdir; "" for a plan of one run.
      config: its whole configuration, with the method's changes applied and `seed` set.
    """

    method: str
    seed: int
    folder: str
    config: dict[str, Any]


def _override(config: dict[str, Any], changes: Mapping[str, Any], method: str) -> None:
    for dotted, value in flatten(changes).items():
        *sections, last = dotted.split(".")
        target = config
        for section in sections:
            target = target.get(section, {})
        if not isinstance(target, dict) or last not in target:
            raise ValueError(
                f"methods.{method} changes {dotted!r}, which is no field of the config; "
                "write it as section.field, e.g. selection.utility"
            )
        target[last] = value


def expand(config: Mapping[str, Any]) -> list[PlannedRun]:
    """The runs of a configuration, every one of them checked.

    `methods` maps a label to the fields it changes ({"random": {"selection": {"utility":
    "random"}}}); without methods there is one, named after utility and coupling. `repeats` runs
    each with the seeds `seed`, `seed` + 1, ... All runs
    share the corpus and its spoilt rows (`data.seed`); those of one seed also share the initial
    weights and the pools.

    Raises:
      ValueError: repeats < 1, a method that changes an unknown field, or any setting that
        `settings.parse` refuses.
    """
    repeats = config.get("repeats", 1)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    base = {key: value for key, value in config.items() if key not in ("methods", "repeats")}
    methods = config.get("methods") or {}
    runs = []
    for repeat in range(repeats):
        for method, changes in (methods or {"": {}}).items():
            own = copy.deepcopy(base)
            _override(own, changes, method)
            own["seed"] = base["seed"] + repeat
            own = corpora.complete(pretrained.complete(own))
            parsed = run_settings.parse(own)
            label = method or f"{parsed.selection.utility}-{parsed.selection.coupling}"
            alone = not methods and repeats == 1
            folder = "" if alone else f"{label}/seed{own['seed']}"
            runs.append(PlannedRun(label, own["seed"], folder, own))
    return runs
