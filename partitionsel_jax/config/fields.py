"""Declarations of the configuration's fields, and what is derived from them.

A section is a frozen dataclass whose fields are made by `field`, each with its default, meaning,
choices and range. The defaults that config files start from, the checks, the fields that decide
what a run computes, those that it reads, and the list that a user can print all follow from these.
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from partitionsel_jax.config.checks import choice


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is declared of a field.

    Attributes:
      meaning: for the user.
      default: what config files start from; a class for a section of its defaults.
      choices: the values there are; empty for no limit.
      low, high, above, below: bounds of a number, the last two of which it may not reach.
      incidental: changes where or how often a run works, but not what it computes.
      read_if: section that holds the field -> whether a run reads it; None for always.
      once: what the field was once called.
      noted: is written by this code, and is no field of config files.
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

    @property
    def range(self) -> str:
        """The bounds, to stand behind "must"; empty where there are none."""
        low, high = (self.low, "[") if self.above is None else (self.above, "("), (self.high, "]")
        if self.below is not None:
            high = self.below, ")"
        if high[0] is not None:
            return f"lie in {low[1]}{low[0]}, {high[0]}{high[1]}"
        if low[0] is None:
            return ""
        return f"be at least {low[0]}" if self.above is None else f"be > {low[0]}"

    def allows(self, value: float) -> bool:
        """Returns whether a number is within the bounds."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def field(default: Any, meaning: str, *, compare: bool = True, **facts: Any) -> Any:
    """A dataclass field with its `Facts`."""
    metadata = {"facts": Facts(meaning, default, **facts)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, compare=compare, metadata=metadata)


def needed(default: Any, meaning: str, *, compare: bool = True, **facts: Any) -> Any:
    """A `field` that has to stand in every config that is parsed."""
    return dataclasses.field(compare=compare, metadata={"facts": Facts(meaning, default, **facts)})


def every(section: type, prefix: str = "") -> Iterator[tuple[str, Facts]]:
    """(dotted name, facts) of every field of a section and of the sections in it.

    The meanings of fields that other rooms declare are those of their docstrings.
    """
    hints = typing.get_type_hints(section)
    documented = re.findall(
        r"^ {6}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", section.__doc__ or "", re.MULTILINE
    )
    for each in dataclasses.fields(section):
        facts = each.metadata.get("facts") or Facts(
            " ".join(
                " ".join(text.split())
                for names, text in documented
                if each.name in names.split(", ")
            )
        )
        yield prefix + each.name, facts
        if dataclasses.is_dataclass(hints[each.name]):
            yield from every(hints[each.name], f"{prefix}{each.name}.")


def defaults(section: type) -> dict[str, Any]:
    """What config files start from: every field of a section with its default."""
    found = {}
    for each in dataclasses.fields(section):
        facts: Facts = each.metadata["facts"]
        value = facts.default
        if isinstance(value, type):
            value = defaults(value)
        elif dataclasses.is_dataclass(value):
            value = dataclasses.asdict(typing.cast(Any, value))
        if not facts.noted:
            found[each.name] = value
    return found


def check(section: Any, name: str) -> None:
    """Raises ValueError for a field that is not among its choices or not within its bounds."""
    for each in dataclasses.fields(section):
        facts: Facts = each.metadata["facts"]
        value, path = getattr(section, each.name), f"{name}.{each.name}"
        if facts.choices:
            choice(path, value, facts.choices)
        if facts.range and not facts.allows(value):
            raise ValueError(f"{path} must {facts.range}, not {value}")


def described(section: type, values: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the user: every field with its value, meaning, choices and range.

    Args:
      section: whose fields they are.
      values: dotted name -> value, of fields that hold one.
    """
    for name, facts in every(section):
        if name in values and not facts.noted:
            limits = [f"one of {', '.join(facts.choices)}"] if facts.choices else []
            limits += [f"must {facts.range}"] if facts.range else []
            limits += ["changes no result"] if facts.incidental else []
            more = f" ({'; '.join(limits)})" if limits else ""
            yield f"{name} = {values[name]!r}\n    {facts.meaning}{more}"
