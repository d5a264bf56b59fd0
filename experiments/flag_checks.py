"""Checks of what was typed, before a command begins: config files, and the values of all flags."""

import inspect
import math
import pathlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib import machinery, util
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from partitionsel_jax import paths
from partitionsel_jax.file_errors import reading

# Names of models, which no file system has.
_NO_PATHS = ("model", "models")
_LARGEST = 2**63 - 1


def check_configs(arguments: Sequence[str]) -> None:
    """Raises ValueError unless every config file that is named gives a ConfigDict.

    What is wrong with a file is best said before flags are read: libraries wrap it.
    """
    values = flags.FLAGS
    for name in values:
        if _is_config(values[name]):
            for text in _given(values.read_flags_from_files(arguments[1:], force_gnu=False), name):
                _check_config(name, text)


def _is_config(flag: flags.Flag) -> bool:
    return flag.flag_type() == "config object"


def _given(arguments: Sequence[str], name: str) -> Iterator[str]:
    """The values that a flag is given."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, text = argument.partition("=")
        if flag in (f"-{name}", f"--{name}"):
            yield text if equals else following


def _check_config(name: str, text: str) -> None:
    """Runs a config file as `config_flags` will, and says what is wrong with it."""
    file, colon, argument = text.partition(":")
    if not file.strip():
        raise ValueError(f"--{name}={text} names no file: give it one of configs/")
    path = pathlib.Path(file)
    if not path.exists():
        raise ValueError(f"--{name}={text}: there is no file {file}; name one as of configs/")
    if path.is_dir():
        raise ValueError(f"--{name}={text} is a directory: name a file in it")
    module = f"{name}_config"
    with reading(path):
        path.read_bytes()
        try:
            loader = machinery.SourceFileLoader(module, file)
            loaded = util.module_from_spec(util.spec_from_loader(module, loader))  # type: ignore[arg-type]
            sys.modules[module] = loaded
            loader.exec_module(loaded)
            made = _made(loaded, file, (argument,) if colon else ())
        except SyntaxError as error:
            raise ValueError(
                f"{error.filename or file}, line {error.lineno}: {error.msg}"
            ) from None
        except (Exception, SystemExit) as error:
            raise ValueError(f"{_place(error, file)}: {_told(error)}") from None
        finally:
            sys.modules.pop(module, None)
    if not isinstance(made, ConfigDict):
        raise ValueError(
            f"{file}: get_config() gives {'nothing' if made is None else type(made).__name__}: "
            "return an ml_collections.ConfigDict"
        )


def _made(module: Any, file: str, arguments: tuple[str, ...]) -> Any:
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ValueError("it defines no get_config(): a config file has one, see configs/")
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        what = "nothing" if not arguments else f"one argument, {arguments[0]!r}"
        raise ValueError(
            f"its get_config() cannot be called with {what} ({error}): define get_config(text=None)"
        ) from None
    return get_config(*arguments)


def _place(error: BaseException, file: str) -> str:
    """The file, and the line of it that something was raised in, where it is no refusal."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    return file if isinstance(error, ValueError) or not lines else f"{file}, line {lines[-1]}"


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def check_values(values: flags.FlagValues) -> None:
    """Raises ValueError for values that no flag takes.

    These are empty texts, as an unset shell variable leaves them (an empty path would be the
    current directory), numbers that are not finite or that nothing can hold, and buckets that
    cannot be reached.
    """
    for module, defined in values.flags_by_module_dict().items():
        if module.partition(".")[0] == "absl":
            continue
        for flag in defined:
            if flag.present and not _is_config(flag) and "." not in flag.name:
                given = flag.value if isinstance(flag.value, list) else [flag.value]
                _check_values(flag.name, given)


def _check_values(name: str, given: Iterable[Any]) -> None:
    given = list(given)
    texts = [value for value in given if isinstance(value, str)]
    if not given or not all(text.strip() for text in texts):
        raise ValueError(
            f"--{name} has an empty value (a shell variable that is not set?): give it one, or "
            "leave the flag out"
        )
    for value in given:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name} must be a finite number, not {value}")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"--{name} must be an integer of at most 2^63 - 1")
    for text in texts:
        if "://" in text and name not in _NO_PATHS:
            paths.absolute(text, f"--{name}={text}")
