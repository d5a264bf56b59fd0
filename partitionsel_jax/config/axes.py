"""The axes of an ablation: fields of a configuration, the values each takes, and names for them."""

import collections
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from partitionsel_jax.config.checks import near
from partitionsel_jax.config.essentials import INCIDENTAL, flatten

# Characters of a value that a name shows; of a longer one, a digest says the rest.
_LONGEST = 32


@dataclasses.dataclass(frozen=True)
class Axes:
    """Fields, each with its values.

    Attributes:
      values: dotted field -> its values, in order.
      short: dotted field -> what names call it.
    """

    values: Mapping[str, tuple[Any, ...]]
    short: Mapping[str, str]

    @classmethod
    def read(cls, section: Mapping[str, Any], base: Mapping[str, Any], where: str) -> "Axes":
        """The axes of a section such as {"selection": {"utility": ("taylor", "random")}}.

        Args:
          section: nested fields, a list of values at each leaf.
          base: the configuration whose fields they are.
          where: what errors call the section.

        Raises:
          ValueError: a field that the configuration lacks or that changes no result, or a leaf that
            is no list of different values.
        """
        known, values = flatten(base), {}
        for field, listed in flatten(section).items():
            if isinstance(listed, Mapping):  # an empty section
                continue
            if field not in known or isinstance(known[field], Mapping):
                parent = field.rpartition(".")[0]
                inside = [name for name in known if name.rpartition(".")[0] == parent] or sorted(
                    {name.partition(".")[0] for name in known}
                )
                raise ValueError(
                    f"{where}.{field} is no field of the config{near(field, inside)}; known: "
                    f"{', '.join(sorted(inside))}"
                )
            if field != "seed" and field in INCIDENTAL:
                raise ValueError(
                    f"{where}.{field}: the field changes nothing that a run computes, so that its "
                    "values cannot be compared; set it for all runs instead"
                )
            values[field] = _values(f"{where}.{field}", listed)
        return cls(values, _short(values))

    def __bool__(self) -> bool:
        return bool(self.values)

    def combinations(self, fields: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every combination of the values of some fields, of all when None, in order."""
        fields = list(self.values) if fields is None else fields
        for chosen in itertools.product(*(self.values[field] for field in fields)):
            yield dict(zip(fields, chosen, strict=True))

    def text(self, chosen: Mapping[str, Any]) -> str:
        """E.g. "coupling=joint,step_scale=0.1", the same whatever other values there are."""
        return ",".join(f"{self.short[field]}={name_of(chosen[field])}" for field in chosen)


def name_of(value: Any) -> str:
    """A value as a part of a path; different values have different names."""
    text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    plain = re.sub(r"[^A-Za-z0-9._+-]", "-", text)[:_LONGEST]
    if plain == str(value):
        return plain
    return f"{plain}-{hashlib.sha256(repr(value).encode()).hexdigest()[:6]}"


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values at some dotted fields, all of which it has."""
    new = dict(config)
    for field, value in changes.items():
        name, _, rest = field.partition(".")
        new[name] = changed(new[name], {rest: value}) if rest else value
    return new


def _values(name: str, listed: Any) -> tuple[Any, ...]:
    if not isinstance(listed, (list, tuple)) or not listed:
        raise ValueError(f"{name} must list at least one value, (value, ...), not {listed!r}")
    # As tuples, since lists in JSON and in a config are the same value.
    values = tuple(tuple(value) if isinstance(value, list) else value for value in listed)
    if odd := [value for value in values if not _is_plain(value)]:
        raise ValueError(f"{name} lists {odd[0]!r}: a value is a number, a text or a list of these")
    if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{name} lists {repeated[0]!r} twice: list every value once")
    return values


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float)


def _short(fields: Mapping[str, Any]) -> dict[str, str]:
    """The last part of each field, or all of it where that is another's as well."""
    last = {field: field.rpartition(".")[2] for field in fields}
    counts = collections.Counter(last.values())
    return {
        field: name if counts[name] == 1 and (name != "seed" or field == "seed") else field
        for field, name in last.items()
    }
