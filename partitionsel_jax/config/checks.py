"""Checks of a configuration's values by themselves: kinds, choices and sizes."""

import collections.abc
import dataclasses
import difflib
import math
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

# Beyond these no array counts anything, and no generator takes a seed.
_LARGEST, _LARGEST_SEED = 2**31 - 1, 2**63 - 1
# What errors call values of a kind, alone and in a list.
_KINDS = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a text", "texts"),
}


def choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError unless the value is one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {sorted(choices)}, not {value!r}{near(value, choices)}"
        )


def near(value: Any, choices: Iterable[str]) -> str:
    """A question whether the nearest of the choices was meant, or nothing."""
    found = difflib.get_close_matches(str(value), list(choices), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def not_below(name: str, value: Any, low: int) -> None:
    """Raises ValueError unless the value is an integer of `low` or more."""
    if not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, not {value!r}")


def check_kinds(cls: type, section: Any, name: str, partial: Collection[str] = ()) -> None:
    """Makes sure that a section of the config has the fields of a dataclass, of the right kinds.

    Args:
      cls: the dataclass.
      section: from the config.
      name: of the section; "" for the whole config.
      partial: sections that need not have all of their fields.

    Raises:
      ValueError: an unknown or missing key, or a value of another kind, by name.
    """
    if not isinstance(section, Mapping):
        raise ValueError(f"{name or 'the config'} must be a section of fields, not {section!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    prefix = f"{name}." if name else ""
    for key in (key for key in section if key not in fields):
        for field in fields.values():
            if key == getattr(field.metadata.get("declared"), "once", ""):
                raise ValueError(f"config.{prefix}{key} is now called config.{prefix}{field.name}")
        where = f" in config.{name}" if name else ""
        raise ValueError(
            f"unknown config key {key!r}{where}{near(key, fields)}; known: {sorted(fields)}"
        )
    for key, field in fields.items():
        if key in section:
            _check_kind(hints[key], section[key], prefix + key, partial)
        elif field.default is field.default_factory is dataclasses.MISSING and name not in partial:
            raise ValueError(f"the config lacks {prefix}{key}")


def _check_kind(kind: Any, value: Any, path: str, partial: Collection[str] = ()) -> None:
    """Raises ValueError unless a value is of a kind that a settings dataclass is annotated with."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        check_kinds(typing.cast(type, kind), value, path, partial)
    elif origin is tuple:
        if not (isinstance(value, list | tuple) and all(_is_a(inner[0], item) for item in value)):
            raise ValueError(f"{path} must be {_KINDS[inner[0]][1]}, (value, ...), not {value!r}")
        for item in value:
            _check_size(item, path)
    elif origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} must be a section of fields, not {value!r}")
        for key, item in value.items():
            _check_kind(inner[1], item, f"{path}.{key}")
    elif kind is not Any:
        kind = type(inner[0]) if origin is typing.Literal else kind
        if not _is_a(kind, value):
            raise ValueError(f"{path} must be {_KINDS[kind][0]}, not {value!r}")
        _check_size(value, path)


def _is_a(kind: type, value: Any) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _check_size(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} must be a finite number, not {value}")
    largest = _LARGEST_SEED if path.endswith("seed") else _LARGEST
    if isinstance(value, int) and abs(value) > largest:
        # Python refuses to write an integer of many thousand digits.
        came = str(value) if abs(value) < 10**20 else "one of more than 20 digits"
        raise ValueError(f"{path} must be at most {largest}, not {came}")
