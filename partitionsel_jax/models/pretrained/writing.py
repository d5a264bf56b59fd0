"""Parameters as safetensors files, by a checkpoint's names."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import save_file

from partitionsel_jax.models.config import DTYPES, DecoderConfig
from partitionsel_jax.models.pretrained import description, names
from partitionsel_jax.models.pretrained.weights import INDEX, SINGLE

SHARD_BYTES = 5 << 30


def check_new(directory: str | os.PathLike[str]) -> Path:
    """The directory as a path.

    Raises:
      ValueError: it holds something already, or is not on this machine.
    """
    if "://" in os.fspath(directory):
        raise ValueError(f"{directory} is no local directory: write to one, and copy it from there")
    target = Path(directory).expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{directory} is not empty: name a new directory, or remove it first")
    if target == Path.cwd():
        raise ValueError(f"{directory} is the current directory: name a new one")
    return target


@contextlib.contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that moves to `directory` once all is written, so that no half of it is ever seen.

    Raises:
      ValueError: the directory holds something already.
    """
    target = check_new(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield work
        work.chmod(0o755)  # temporary ones are for their owner alone
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def checkpoint(
    folder: Path,
    config: DecoderConfig,
    parameters: dict[str, Any],
    dtype: str,
    shard_bytes: int = SHARD_BYTES,
    *,
    bos_id: int | None = None,
    eos_id: int | None = None,
) -> None:
    """Writes a hub's checkpoint into a folder: config.json and safetensors, sharded where large.

    Args:
      parameters: without adapters.
      dtype: "float32" or "bfloat16", of the weights.
      shard_bytes: see `save`.
      bos_id, eos_id: the tokenizer's, for libraries that look for them in config.json.
    """
    save_parameters(folder, names.tensors(config), parameters, dtype, shard_bytes)
    content = description.config_json(config, dtype)
    content |= {"bos_token_id": bos_id, "eos_token_id": eos_id}
    (folder / description.CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def save_parameters(
    folder: Path,
    tensors: Sequence[names.Tensor],
    parameters: dict[str, Any],
    dtype: str,
    shard_bytes: int,
    single: str = SINGLE,
) -> None:
    """Writes tensors of a parameter tree; see `save`."""
    flat = traverse_util.flatten_dict(parameters)
    by_name = {tensor.name: tensor for tensor in tensors}

    def value(name: str) -> np.ndarray:
        tensor = by_name[name]
        leaf = flat[tensor.path]
        leaf = jnp.asarray(leaf if tensor.layer is None else leaf[tensor.layer], DTYPES[dtype])
        return np.asarray(leaf.T if tensor.transposed else leaf)

    width = jnp.dtype(DTYPES[dtype]).itemsize
    sizes = {name: width * math.prod(tensor.shape) for name, tensor in by_name.items()}
    save(folder, sizes, value, shard_bytes, single)


def save(
    folder: Path,
    sizes: Mapping[str, int],
    value: Callable[[str], np.ndarray],
    shard_bytes: int,
    single: str = SINGLE,
) -> None:
    """Writes tensors into safetensors files, with an index where there are several.

    Args:
      sizes: name of each tensor -> its bytes.
      value: gives a tensor by its name, when its turn comes.
      shard_bytes: largest file, unless one tensor alone is larger; so much is held in memory.
      single: name of the file where one is enough.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    mapping, last = dict[str, str](), len(shards)
    for number, shard in enumerate(shards, 1):
        file = single if last == 1 else f"model-{number:05d}-of-{last:05d}.safetensors"
        arrays = {name: np.ascontiguousarray(value(name)) for name in shard}
        try:
            # Readers of the format take missing metadata for a file of another framework.
            save_file(arrays, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # which is no OSError, though a full disk is behind it
            raise OSError(f"{file} cannot be written ({error})") from None
        (folder / file).chmod(0o644)  # it is made for its owner alone, and models are shared
        mapping |= dict.fromkeys(shard, file)
    if last > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": mapping}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
