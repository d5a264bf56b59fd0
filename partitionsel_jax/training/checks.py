"""What the checks of a configuration's sections share."""

import difflib
from collections.abc import Iterable
from typing import Any


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


def at_least(section: str, settings: Any, low: float, *names: str) -> None:
    """Raises ValueError unless the named fields of the section are `low` or more."""
    for name in names:
        if not getattr(settings, name) >= low:
            raise ValueError(
                f"{section}.{name} must be at least {low}, not {getattr(settings, name)}"
            )
