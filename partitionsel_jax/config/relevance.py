"""Which fields of a configuration a run reads, so that an ablation varies no other."""

from collections.abc import Mapping
from typing import Any

from partitionsel_jax import selection
from partitionsel_jax.config import fields
from partitionsel_jax.config.sections import SelectionSettings
from partitionsel_jax.config.settings import Settings

_FACTS = dict(fields.every(Settings))


def is_read(field: str, config: Mapping[str, Any]) -> bool:
    """Returns whether a run of a configuration may depend on one of its fields.

    Args:
      field: dotted, e.g. "selection.step_scale".
      config: nested mappings with all fields; names in it may be wrong, and all is then read.
    """
    section: Any = {**config, "selection": selection_of(config)}
    if section["selection"]["utility"] not in selection.UTILITIES:
        return True
    path = ""
    for name in field.split("."):
        path = f"{path}.{name}" if path else name
        declared = _FACTS.get(path)
        if declared is not None and declared.read_if is not None and not declared.read_if(section):
            return False
        section = section.get(name, {}) if isinstance(section, Mapping) else {}
    return True


def selection_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The selection of a configuration, with the defaults of what it leaves out."""
    return {**fields.defaults(SelectionSettings), **config["selection"]}


def merged_coupling(config: Mapping[str, Any]) -> str:
    """The coupling's name, "joint" for one that makes the same picks.

    A utility that ranks compares no two candidates, so that domains on their own change nothing.
    """
    chosen = selection_of(config)
    utility = selection.UTILITIES.get(chosen["utility"])
    ranks = utility is not None and "residual_random" not in utility.rules
    return "joint" if ranks and chosen["coupling"] == "independent" else chosen["coupling"]
