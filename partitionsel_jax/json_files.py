"""JSON files that are read whole or not at all."""

import json
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
