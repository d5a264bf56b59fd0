"""JSON files that are read whole or not at all."""

import json
from typing import Any

from etils import epath

from partitionsel_jax.file_errors import reading


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
    """The value of a JSON file.

    Raises:
      ValueError: the file is not JSON, or cannot be held as a value; its name is in the message.
      OSError: it is not there, or may not be read.
    """
    with reading(path):
        try:
            return json.loads(epath.Path(path).read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not a JSON file ({error}): it was damaged or edited"
            ) from None
