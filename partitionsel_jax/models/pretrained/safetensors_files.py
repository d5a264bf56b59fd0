"""A directory of safetensors files, read tensor by tensor."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors reads into)
import numpy as np
from safetensors import SafetensorError, safe_open

from partitionsel_jax.file_errors import one_line, reading
from partitionsel_jax.models.pretrained.description import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"


class SafetensorsFiles:
    """The tensors of a checkpoint in one file, or in shards with an index.

    Opening reads the headers alone, and finds shards that are missing or cut short.

    Args:
      directory: where the files are.
      contents: the one that says which tensors there are: `model.safetensors.index.json`, or a
        safetensors file that holds them all.

    Raises:
      ValueError: a file that is missing, damaged, or lacks one of its tensors.
    """

    def __init__(self, directory: str | os.PathLike[str], contents: str):
        self.directory = Path(directory)
        self._contents = contents
        self._open_file: tuple[str, Any] = ("", None)
        self._files: dict[str, str]  # tensor -> file
        if contents == INDEX:
            self._files = self._indexed()
        else:
            self._files = dict.fromkeys(self._open(contents).keys(), contents)

    def _indexed(self) -> dict[str, str]:
        """The file of every tensor, as the index says, and as it is."""
        path = self.directory / INDEX
        mapping = read_json(path).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(f"{path}: expected a 'weight_map' of tensors to files")
        held: dict[str, set[str]] = {}
        for tensor, file in sorted(mapping.items(), key=lambda item: str(item[1])):
            # What an index names lies beside it: nothing else of the machine is read.
            beside = isinstance(file, str) and file.isprintable() and Path(file).name == file
            if not beside or file in ("", ".."):
                raise ValueError(
                    f"{path}: {tensor!r} is said to be in {file!r:.80}, no file beside it"
                )
            if file not in held:
                held[file] = set(self._open(file).keys())
            if tensor not in held[file]:
                raise ValueError(
                    f"{self.directory / file} lacks {tensor!r}, which {INDEX} says it holds"
                )
        for file, tensors in held.items():
            for tensor in sorted(tensors):
                # What the index does not list is there all the same: whoever reads it decides.
                if (other := mapping.setdefault(tensor, file)) != file:
                    raise ValueError(
                        f"{self.directory} holds {tensor!r} in {other} and in {file}; remove the "
                        "files that are left from an earlier save"
                    )
        return mapping

    @property
    def unread(self) -> list[str]:
        """Files of weights beside those that are read."""
        there = {path.name for path in self.directory.glob("*.safetensors")}
        return sorted(there - set(self._files.values()))

    def _open(self, file: str) -> Any:
        """A file's handle. It maps the file into memory, so that only the last one is kept."""
        if self._open_file[0] == file:
            return self._open_file[1]
        path = self.directory / file
        with reading(path):
            if not path.exists():
                named = f", one of the files that {INDEX} names" * (self._contents == INDEX)
                raise ValueError(f"{path} is missing{named}; fetch it")
            try:
                self._open_file = (file, safe_open(path, framework="numpy"))
            except SafetensorError as error:
                raise ValueError(f"{path} cannot be read ({_reason(path, error)})") from None
        return self._open_file[1]

    def names(self) -> Iterator[str]:
        return iter(self._files)

    def where(self, name: str) -> str:
        """The file of a tensor, or the one that should name it."""
        return str(self.directory / self._files.get(name, self._contents))

    def shape(self, name: str) -> tuple[int, ...]:
        with reading(self.where(name)):
            return tuple(self._open(self._files[name]).get_slice(name).get_shape())

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop - 1 of a tensor, in the dtype that it is stored in."""
        with reading(self.where(name), f"{self.where(name)}: {name}"):
            return self._open(self._files[name]).get_slice(name)[start:stop]


def _reason(path: Path, error: Exception) -> str:
    """Why a file is no safetensors file: what else it is, or how it is damaged."""
    with open(path, "rb") as file:
        if file.read(20) == b"version https://git-":
            return "it is a Git LFS pointer, not the file itself: run git lfs pull"
    return f"{one_line(error)}: it is cut short, damaged, or of another format; fetch it again"
