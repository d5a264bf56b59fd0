"""Which fields of a configuration a run never reads, so that an ablation does not vary them.

Letters and names are those of `selection.UTILITIES`, whose entries say what a utility reads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import selection
from partitionsel_jax.config.sections import SelectionSettings
from partitionsel_jax.selection.couplings import BUDGETED

_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(SelectionSettings)
    if field.default is not dataclasses.MISSING
}
# Budgets that a field is for.
_BUDGETS_OF = {"shares": "fixed", "temperature": "temperature", "curriculum": "curriculum"}


def is_read(field: str, config: Mapping[str, Any]) -> bool:
    """Whether a run of a configuration may depend on one of its fields.

    Args:
      field: dotted, e.g. "selection.step_scale".
      config: nested mappings with all fields; names in it may be wrong, and all is then read.
    """
    section, _, name = field.partition(".")
    if section == "selection":
        return _selection_reads(name.partition(".")[0], selection_of(config))
    if section == "features":
        utility = selection.UTILITIES.get(config["selection"]["utility"])
        return utility is None or utility.gradients
    if field == "data.noise.share":
        return config["data"].get("noise", {}).get("kind") != "none"
    return True


def selection_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The selection of a configuration, with the defaults of what it leaves out."""
    return {**_DEFAULTS, **config["selection"]}


def _selection_reads(name: str, chosen: Mapping[str, Any]) -> bool:
    utility = selection.UTILITIES.get(chosen["utility"])
    if utility is None:
        return True
    budgeted = chosen["coupling"] in BUDGETED or chosen["coupling"] not in selection.COUPLINGS
    follows = budgeted and chosen["budgets"] == "curriculum"
    match name:
        case "step_scale":
            return chosen["utility"] == "taylor"
        case "ridge" | "weights":
            return utility.refits  # all other weights are 1
        case "weight_cap":
            return utility.refits and chosen["weights"] == "clipped"
        case "reference":
            return "reference_losses" in utility.also_reads
        case "budgets":
            return budgeted and not utility.takes_all
        case "shares" | "temperature" | "curriculum":
            return budgeted and chosen["budgets"] == _BUDGETS_OF[name]
        case "anchors" | "anchor_balance":
            return utility.gradients or follows
        case "anchor_mean":
            return utility.gradients
    return True


def merged_coupling(config: Mapping[str, Any]) -> str:
    """The coupling's name, "joint" for one that makes the same picks.

    A utility that ranks compares no two candidates, so that domains on their own change nothing.
    """
    chosen = selection_of(config)
    utility = selection.UTILITIES.get(chosen["utility"])
    ranks = utility is not None and "residual_random" not in utility.rules
    return "joint" if ranks and chosen["coupling"] == "independent" else chosen["coupling"]
