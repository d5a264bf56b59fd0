"""The fields of a configuration that decide what a run computes, and a name for their values."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.config import fields
from partitionsel_jax.config.settings import OF_THE_PLAN, Settings

# Fields that runs of before lack, and the values that stand for lacking them.
_LATER = {name: declared.default for name, declared in fields.every(Settings) if declared.later}
# Fields that change which runs there are, where or how often they work, but not what one computes.
INCIDENTAL = (
    *OF_THE_PLAN,
    *(name for name, declared in fields.every(Settings) if declared.incidental),
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
        and not _is_missing(key.removeprefix("proxy."), value)
    }


def _is_missing(key: str, value: Any) -> bool:
    # JSON makes lists of tuples.
    return key in _LATER and (tuple(value) if isinstance(value, list) else value) == _LATER[key]


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that two configs share when they compute the same thing."""
    text = json.dumps(essentials(config), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
