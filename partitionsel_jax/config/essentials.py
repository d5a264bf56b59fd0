"""What of a configuration decides what a run computes, and a name for that."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Fields that say which runs come of a configuration, and are no setting of any of them.
OF_THE_PLAN = ("axes", "methods", "repeats", "tune")

# Fields that change where or how often a run works, but not what it computes.
INCIDENTAL = (
    *OF_THE_PLAN,
    "seed",
    "data.directory",
    "data.workers",
    "evaluation.answers_every",
    "features.fidelity_every",
    "features.fidelity_rows",
    "training.checkpoint_every",
    "training.devices",
    "training.keep_best",
    "training.keep_checkpoints",
    "training.split_weights",
    "training.spmd",
)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; an empty mapping stays as a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def essentials(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flattened fields that decide what a run computes, its seed apart."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == field or key.startswith(f"{field}.") for field in INCIDENTAL)
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that two configs share when they compute the same thing."""
    text = json.dumps(essentials(config), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
