"""JSON files that are read whole or not at all, and checks of what they hold."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from partitionsel_jax.file_errors import reading

_MOST_BYTES = 1 << 28  # the largest vocabularies take a tenth of it
_LARGEST = 2**63 - 1  # no array holds a larger integer
# Kinds of a value beside Python's types; a bool is no number.
NUMBER, INTEGER, TEXTS, NUMBERS = "a number", "an integer", "a list of texts", "a list of numbers"
_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file in one move: a reader sees the old file or the new one, whole."""
    path = epath.Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a value that strict JSON can hold, in one move.

    Raises:
      ValueError: a number that is not finite.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_text(path: epath.PathLike) -> str:
    """Reads a file in UTF-8, which may begin with a byte order mark.

    Raises:
      ValueError: it is no text in UTF-8, or larger than any that is meant.
      OSError: it is not there, or may not be read.
    """
    with reading(path):
        if (size := epath.Path(path).stat().length) > _MOST_BYTES:
            raise ValueError(f"{path} has {size} bytes where {_MOST_BYTES} are the most expected")
        try:
            return epath.Path(path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is no text in UTF-8 ({error}): it is damaged, or of another encoding; "
                "save it as UTF-8"
            ) from None


def read_json(path: epath.PathLike) -> Any:
    """Reads the value of a JSON file; raises what `read_text` does, and ValueError for no JSON."""
    with reading(path):
        try:
            return json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is no valid JSON ({error}): it is damaged; fetch it again, or restore it"
            ) from None


def read_object(path: epath.PathLike) -> dict[str, Any]:
    """Reads the JSON object of a file; raises as `read_json`, and ValueError for another value."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


_RESTORE = "restore it from a copy"


def read_fields(
    path: epath.PathLike, fields: Mapping[str, Any], remedy: str = _RESTORE
) -> dict[str, Any]:
    """Reads a JSON object and checks its fields; raises what `read_json` and `check_fields` do."""
    value = read_json(path)
    check_fields(value, fields, f"{path}", remedy)
    return value


def check_fields(value: Any, fields: Mapping[str, Any], file: str, remedy: str = _RESTORE) -> None:
    """Checks what a JSON file holds.

    Args:
      value: as JSON gives it.
      fields: name -> dict, list, str, bool, NUMBER, INTEGER, TEXTS, NUMBERS, or the fields of an
        object in it. Names that end in "?" may be missing or null.
      file: what errors call it.
      remedy: what to do about one that was edited.

    Raises:
      ValueError: no object, or a field that is missing or of another kind.
    """
    if fault := _fault(value, fields):
        raise ValueError(f"{file} {fault}: it was edited or is of another version; {remedy}")


def _fault(value: Any, fields: Mapping[str, Any], within: str = "") -> str:
    """Returns what is wrong with an object, as it is said of the file; empty for nothing."""
    if not isinstance(value, dict):
        return f"holds {value!r:.40} where {within.rstrip('.') or 'it'} should be a JSON object"
    if missing := [within + name for name in fields if name[-1] != "?" and name not in value]:
        return f"lacks {', '.join(missing)}"
    for field, kind in fields.items():
        name = field.removesuffix("?")
        found = value.get(name)
        if found is None and name != field:
            continue
        if isinstance(kind, Mapping):
            if fault := _fault(found, kind, f"{within}{name}."):
                return fault
        elif not is_a(found, kind):
            return f"has {within}{name}={found!r:.40}, not {_NAMES.get(kind, kind)}"
    return ""


def is_a(value: Any, kind: Any) -> bool:
    """Returns whether a value is of a kind of `check_fields`."""
    if kind in (TEXTS, NUMBERS):
        each = str if kind == TEXTS else NUMBER
        return isinstance(value, list) and all(is_a(item, each) for item in value)
    if kind == NUMBER and isinstance(value, float):
        return True
    if kind in (NUMBER, INTEGER):
        return type(value) is int and abs(value) <= _LARGEST
    return isinstance(value, kind)
