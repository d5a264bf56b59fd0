"""The fields of every configuration, and how a config reads its own arguments."""

import ast
from typing import Any

from ml_collections import ConfigDict

from partitionsel_jax.config import fields
from partitionsel_jax.config.settings import PlanSettings, Settings

# Random picks of the pool.
RANDOM = {"selection": {"utility": "random", "swaps": 0}}
# What arguments were once called, and are called now.
_RENAMED = {"spoilt": "noise"}


def default() -> ConfigDict:
    """All fields with their defaults, as `partitionsel_jax/config` declares them.

    A config file starts from this, changes what it is about, and documents the result.
    """
    return ConfigDict(fields.defaults(PlanSettings) | fields.defaults(Settings))


def tune_learning_rate(
    config: ConfigDict,
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3),
    seeds: tuple[int, ...] = (0, 1),
) -> None:
    """Lets every point choose its learning rate from one grid, by seeds of their own."""
    config.tune.grid = {"optimizer": {"learning_rate": rates}}
    config.tune.seeds = seeds


def arguments(text: str | None, **defaults: Any) -> ConfigDict:
    """Reads the part after the colon of --config=file.py:key=value,flag.

    Args:
      text: e.g. "seeds=3,smoke"; None or empty for none.
      **defaults: the arguments there are. A value is read with its default's type, and a boolean
        may stand alone.

    Returns:
      The arguments by name.

    Raises:
      ValueError: an argument that is not there, or a value of another type.
    """
    parsed = ConfigDict(defaults)
    for part in filter(None, (text or "").split(",")):
        name, given, value = part.partition("=")
        if name in _RENAMED:
            raise ValueError(f"config argument {name!r} is now called {_RENAMED[name]!r}")
        if name not in defaults:
            raise ValueError(
                f"unknown config argument {name!r}; this config takes {sorted(defaults)}"
            )
        kind = type(defaults[name])
        if not given and kind is not bool:
            raise ValueError(f"config argument {name!r} needs a value: {name}=...")
        try:
            parsed[name] = value if kind is str else ast.literal_eval(value or "True")
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(
                f"config argument {part!r}: expected {name}=<{kind.__name__}>"
            ) from None
        if type(parsed[name]) is not kind:
            raise ValueError(f"config argument {part!r}: expected {name}=<{kind.__name__}>")
    return parsed
