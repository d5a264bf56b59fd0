"""Declarations of the configuration's fields, and what is derived from them.

A section is a frozen dataclass whose fields are made by `field`, each with its default, meaning,
choices and range. The defaults that config files start from, the checks, the fields that decide
what a run computes, those that it reads, and the list that a user can print all follow from these.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from partitionsel_jax.config.checks import choice


@dataclasses.dataclass(frozen=True)
class Declaration:
    """Everything that is said of a field.

    Attributes:
      meaning: for the user.
      default: what config files start from; a class for a section of its defaults.
      choices: the values there are; empty for no limit.
      low, high, above, below: bounds of a number, the last two of which it may not reach.
      incidental: changes where or how often a run works, but not what it computes.
      read_if: section that holds the field -> whether a run reads it; None for always.
      once: what the field was once called.
      noted: is written by this code, and is no field of config files.
      later: came later than the first runs, whose names it leaves as they are while it has its
        default.
    """

    meaning: str
    default: Any = None
    choices: Collection[str] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    incidental: bool = False
    read_if: Callable[[Mapping[str, Any]], bool] | None = None
    once: str = ""
    noted: bool = False
    later: bool = False

    @property
    def range(self) -> str:
        """The bounds, to stand behind "must"; empty where there are none."""
        if self.above is not None:
            return f"be > {self.above}"
        if self.below is not None:
            return f"lie in [{self.low}, {self.below})"
        if self.high is not None:
            return f"lie in [{self.low}, {self.high}]"
        return "" if self.low is None else f"be at least {self.low}"

    def allows(self, value: float) -> bool:
        """Returns whether a number is within the bounds."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def field(default: Any, meaning: str, *, compare: bool = True, **declared: Any) -> Any:
    """A dataclass field with its `Declaration`."""
    metadata = {"declared": Declaration(meaning, default, **declared)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, compare=compare, metadata=metadata)


def needed(default: Any, meaning: str, *, compare: bool = True, **declared: Any) -> Any:
    """A `field` that has to stand in every config that is parsed."""
    metadata = {"declared": Declaration(meaning, default, **declared)}
    return dataclasses.field(compare=compare, metadata=metadata)


def every(section: type, prefix: str = "") -> Iterator[tuple[str, Declaration]]:
    """(dotted name, declaration) of every field of a section and of the sections in it.

    The meanings of fields that other rooms declare are those of their docstrings.
    """
    hints = typing.get_type_hints(section)
    documented: dict[str, str] = {}
    written = inspect.getdoc(section) or ""
    entries = re.findall(r"^ {2}(\w+(?:, \w+)*): (.*(?:\n {4}.*)*)", written, re.M)
    for names, text in entries:
        documented |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    for each in dataclasses.fields(section):
        meaning = documented.get(each.name, "")
        declared = each.metadata.get("declared")
        yield prefix + each.name, declared or Declaration(meaning, each.default, **each.metadata)
        if dataclasses.is_dataclass(hints[each.name]):
            yield from every(hints[each.name], f"{prefix}{each.name}.")


def defaults(section: type) -> dict[str, Any]:
    """Every field of a section with its default, for config files to start from."""
    found = {}
    for each in dataclasses.fields(section):
        declared: Declaration = each.metadata["declared"]
        value = declared.default
        if isinstance(value, type):
            value = defaults(value)
        elif dataclasses.is_dataclass(value):
            value = dataclasses.asdict(typing.cast(Any, value))
        if not declared.noted:
            found[each.name] = value
    return found


def check(section: Any, name: str) -> None:
    """Raises ValueError for a field that is not among its choices or not within its bounds."""
    for each in dataclasses.fields(section):
        declared: Declaration = each.metadata["declared"]
        value, path = getattr(section, each.name), f"{name}.{each.name}"
        if declared.choices:
            choice(path, value, declared.choices)
        if declared.range and not declared.allows(value):
            raise ValueError(f"{path} must {declared.range}, not {value}")


def described(section: type, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted name, lines for the user) of every field that a config has.

    The lines are its value, meaning, choices and range.
    """
    names = [name for name, _ in every(section)]
    for name, declared in every(section):
        value: Any = config
        for part in name.split("."):
            value = value.get(part)
        if value is None or any(other.startswith(f"{name}.") for other in names):
            continue
        limits = [f"one of {', '.join(declared.choices)}"] if declared.choices else []
        limits += [f"must {declared.range}"] if declared.range else []
        limits += ["changes no result"] if declared.incidental else []
        more = f" ({'; '.join(limits)})" if limits else ""
        yield name, f"{name} = {value!r}\n    {declared.meaning}{more}"
