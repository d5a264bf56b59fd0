"""JSON files that are read whole or not at all."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from partitionsel_jax.file_errors import reading

_MOST_BYTES = 1 << 28  # the largest vocabularies take a tenth of it


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


def read_json(path: epath.PathLike) -> Any:
    """The value of a JSON file that this project wrote.

    Raises:
      ValueError: the file is not JSON, or cannot be held as a value; its name is in the message.
      OSError: it is not there, or may not be read.
    """
    with reading(path):
        try:
            return json.loads(_decoded(path))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not a JSON file ({error}): it was damaged or edited"
            ) from None


def read_text(path: epath.PathLike) -> str:
    """A file in UTF-8 from elsewhere, which may begin with a byte order mark.

    Raises:
      ValueError: it is no text in UTF-8, or larger than any that is meant.
      OSError: it is not there, or may not be read.
    """
    with reading(path):
        if (size := epath.Path(path).stat().length) > _MOST_BYTES:
            raise ValueError(f"{path} has {size} bytes where {_MOST_BYTES} are the most expected")
        try:
            return _decoded(path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as UTF-8") from None


def read_object(path: epath.PathLike, text: str | None = None) -> dict[str, Any]:
    """The JSON object of a file from elsewhere.

    Args:
      path: the file.
      text: what it holds, where that has been read already.

    Raises:
      ValueError: it is no JSON, or JSON of another kind, by name.
      OSError: it is not there, or may not be read.
    """
    text = read_text(path) if text is None else text
    with reading(path):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no valid JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _decoded(path: epath.PathLike) -> str:
    return epath.Path(path).read_bytes().decode("utf-8-sig")


RESTORE = "restore it from a copy"
# Kinds of a value beside Python's types; a bool is no number.
NUMBER, INTEGER, TEXTS, NUMBERS = "a number", "an integer", "a list of texts", "a list of numbers"
_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
# Integers beyond it are counted by nobody, and no array holds them.
_LARGEST = 2**63 - 1


def read_fields(
    path: epath.PathLike, fields: Mapping[str, Any], remedy: str = RESTORE
) -> dict[str, Any]:
    """The object in a JSON file, once its fields are known to be of their kinds.

    Args:
      path: the file.
      fields, remedy: see `check_fields`.

    Raises:
      ValueError: another value, or a field that is missing or of another kind, with the file's
        name.
      OSError: as `read_json`.
    """
    value = read_json(path)
    check_fields(value, fields, f"{path}", remedy)
    return value


def check_fields(value: Any, fields: Mapping[str, Any], file: str, remedy: str = RESTORE) -> None:
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
    if wrong := _wrong(value, fields, ""):
        raise ValueError(f"{file} {wrong}: it was edited or is of another version; {remedy}")


def _wrong(value: Any, fields: Mapping[str, Any], name: str) -> str:
    """The fault of an object, as it is said of the file; empty for none."""
    if not isinstance(value, dict):
        return f"holds {_shown(value)} where {name or 'it'} should be a JSON object"
    paths = {field: f"{name}{field.removesuffix('?')}" for field in fields}
    found = {field: value.get(field.removesuffix("?")) for field in fields}
    missing = [paths[field] for field in fields if field[-1] != "?" and field not in value]
    if missing:
        return f"lacks {', '.join(missing)}"
    for field, kind in fields.items():
        if found[field] is None and field[-1] == "?":
            continue
        if isinstance(kind, Mapping):
            if wrong := _wrong(found[field], kind, f"{paths[field]}."):
                return wrong
        elif not is_a(found[field], kind):
            return f"has {paths[field]}={_shown(found[field])}, not {_NAMES.get(kind, kind)}"
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


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
