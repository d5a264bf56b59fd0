"""Parameters as safetensors files, by a checkpoint's names."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import save_file

from partitionsel_jax.models.config import DTYPES, DecoderConfig
from partitionsel_jax.models.pretrained import description, names
from partitionsel_jax.models.pretrained.checkpoint import CONFIG
from partitionsel_jax.models.pretrained.safetensors_files import INDEX, SINGLE

# Readers of the format take the missing entry for a file of another framework.
_METADATA = {"format": "pt"}
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


def _values(tensor: names.Tensor, flat: Mapping[names.Path, Any], dtype: str) -> np.ndarray:
    leaf = flat[tensor.path]
    leaf = leaf if tensor.layer is None else leaf[tensor.layer]
    leaf = jnp.asarray(leaf, DTYPES[dtype])
    return np.ascontiguousarray(np.asarray(leaf.T if tensor.transposed else leaf))


def save(
    file: Path, tensors: Sequence[names.Tensor], parameters: dict[str, Any], dtype: str
) -> None:
    """Writes tensors of a parameter tree into one file."""
    flat = traverse_util.flatten_dict(parameters)
    arrays = {tensor.name: _values(tensor, flat, dtype) for tensor in tensors}
    try:
        save_file(arrays, file, metadata=_METADATA)
    except SafetensorError as error:  # which is no OSError, though a full disk is behind it
        raise OSError(f"{file.name} cannot be written ({error})") from None
    file.chmod(0o644)  # it is made for its owner alone, and models are shared


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
      shard_bytes: largest file, unless one tensor alone is larger; so much is held in memory.
      bos_id, eos_id: the tokenizer's, for libraries that look for them in config.json.
    """
    width = jnp.dtype(DTYPES[dtype]).itemsize
    shards: list[list[names.Tensor]] = [[]]
    used = 0
    for tensor in names.tensors(config):
        size = width * math.prod(tensor.shape)
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    count = len(shards)
    mapping: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        save(folder / file, tensors, parameters, dtype)
        mapping |= dict.fromkeys((tensor.name for tensor in tensors), file)
    if count > 1:
        total = sum(width * math.prod(tensor.shape) for tensor in names.tensors(config))
        index = {"metadata": {"total_size": total}, "weight_map": mapping}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    content = description.config_json(config, dtype)
    content |= {"bos_token_id": bos_id, "eos_token_id": eos_id}
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
