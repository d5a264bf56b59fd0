"""A directory of safetensors files, read tensor by tensor."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors reads into)
import numpy as np
from safetensors import SafetensorError, safe_open

from partitionsel_jax.models.pretrained.description import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class SafetensorsFiles:
    """The tensors of a checkpoint in one file, or in shards with an index.

    Opening reads the headers alone, and finds shards that are missing or cut short.

    Args:
      directory: with `model.safetensors`, or `model.safetensors.index.json` and what it names.
      single: the name of the one file.

    Raises:
      ValueError: no weights, or a file that is missing, damaged, or lacks one of its tensors.
    """

    def __init__(self, directory: str | os.PathLike[str], single: str = SINGLE):
        self.directory = Path(directory)
        self._files: dict[str, str] = {}  # tensor -> file
        self._contents = INDEX  # the file that says which tensors there are
        self._open_file: tuple[str, Any] = ("", None)
        if (self.directory / INDEX).exists():
            self._read_index()
        elif (self.directory / single).exists():
            self._contents = single
            self._files = dict.fromkeys(self._open(single).keys(), single)
        else:
            raise ValueError(
                f"{self.directory} holds neither {single} nor {INDEX}: expected a checkpoint in "
                "safetensors format"
            )

    def _read_index(self) -> None:
        path = self.directory / INDEX
        mapping = read_json(path).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(f"{path}: expected a 'weight_map' of tensors to files")
        held: dict[str, set[str]] = {}
        for tensor, file in sorted(mapping.items(), key=lambda item: str(item[1])):
            # What an index names lies beside it: nothing else of the machine is read.
            if not isinstance(file, str) or Path(file).name != file:
                raise ValueError(f"{path}: {tensor} is said to be in {file!r}, no file beside it")
            if file not in held:
                held[file] = set(self._open(file).keys())
            if tensor not in held[file]:
                raise ValueError(
                    f"{self.directory / file} lacks {tensor!r}, which {INDEX} says it holds"
                )
        self._files = dict(mapping)

    def _open(self, file: str) -> Any:
        """A file's handle. It maps the file into memory, so that only the last one is kept."""
        if self._open_file[0] == file:
            return self._open_file[1]
        path = self.directory / file
        if not path.exists():
            raise ValueError(f"{path} is missing, one of the files that {INDEX} names; fetch it")
        try:
            self._open_file = (file, safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}): it is cut short or damaged; fetch it again"
            ) from None
        return self._open_file[1]

    def names(self) -> Iterator[str]:
        return iter(self._files)

    def where(self, name: str) -> str:
        """The file of a tensor, or the one that should name it."""
        return str(self.directory / self._files.get(name, self._contents))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open(self._files[name]).get_slice(name).get_shape())

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop - 1 of a tensor, in the dtype that it is stored in."""
        try:
            return self._open(self._files[name]).get_slice(name)[start:stop]
        except (SafetensorError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.where(name)}: {name} cannot be read ({error})") from None
