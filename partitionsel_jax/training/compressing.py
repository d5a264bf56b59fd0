"""Makes a small model out of a large one's weights, to select in its stead."""

import dataclasses
import logging
import os

import jax.numpy as jnp

from partitionsel_jax import models
from partitionsel_jax.models import compression, pretrained
from partitionsel_jax.models.pretrained import writing
from partitionsel_jax.training import exporting, starts

_LOG = logging.getLogger(__name__)


def compress(
    output: str | os.PathLike[str],
    *,
    model: str = "",
    run: str = "",
    layers: int = 0,
    rank: int = 0,
    dtype: str = "float32",
) -> None:
    """Writes the first layers of a model, or all of it with low-rank matrices, or both.

    Args:
      output: a new directory for config.json, safetensors and the tokenizer's files.
      model: a pretrained model; see `pretrained.locate`.
      run: in its stead, the folder of a finished run, whose adapters are merged.
      layers: how many to keep, from the lowest; 0 for all.
      rank: see `compression.low_rank`; 0 for whole matrices. No other library reads the result.
      dtype: "float32" or "bfloat16", of the weights.

    Raises:
      ValueError: both or neither of model and run, nothing to compress, more layers than there are,
        a rank that makes nothing smaller, or a directory that holds something.
    """
    if bool(model) == bool(run):
        raise ValueError("give either --model or --run")
    writing.check_new(output)
    name = f"--run={run!r}"
    checkpoint = None if run else pretrained.Checkpoint.open(pretrained.locate(model))
    config = starts.settings_of(run, name).model if checkpoint is None else checkpoint.config
    small = _planned(config, layers, rank)
    if checkpoint is None:
        finished = starts.load_finished(run, name)
        tokenizer = starts.tokenizer(finished.settings)
        lora = finished.settings.lora
        parameters = models.merge(finished.parameters, lora, jnp.dtype(dtype))
    else:
        tokenizer, parameters = checkpoint.tokenizer, checkpoint.parameters(dtype)
    if layers:
        parameters = compression.first_layers(parameters, layers)
    if rank:
        parameters, kept = compression.low_rank(small, parameters)
        _LOG.info(f"rank {rank} keeps {100 * kept:.1f} % of the matrices' sum of squares")
    exporting.write_model(output, small, parameters, tokenizer, dtype)
    share = small.multiplications / config.multiplications
    _LOG.info(
        f"{os.fspath(output)}: {small.layers} of {config.layers} layers; a token costs "
        f"{small.multiplications:.3g} multiplications, {share:.2f} of the model's"
    )


def _planned(config: models.DecoderConfig, layers: int, rank: int) -> models.DecoderConfig:
    """The decoder that a model is made into."""
    if not layers and not rank:
        raise ValueError("nothing to compress: give --layers, --rank or both")
    most = config.layers if rank else config.layers - 1
    if not 0 <= layers <= most:
        raise ValueError(f"--layers={layers} of a model with {config.layers}: use {most} at most")
    if rank and config.rank:
        raise ValueError(
            f"--rank={rank}: this model's matrices are factors already, of rank {config.rank}; "
            "compress the model that it was made from"
        )
    return dataclasses.replace(config, layers=layers or config.layers, rank=rank or config.rank)
