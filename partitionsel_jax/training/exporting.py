"""A finished run's adapters and merged weights for other libraries, written and checked."""

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import models
from partitionsel_jax.models import pretrained
from partitionsel_jax.models.pretrained import adapters, writing
from partitionsel_jax.training import finished

_LOG = logging.getLogger(__name__)

# Rows and tokens that logits are compared on.
_ROWS, _TOKENS = 2, 64
# Largest difference, relative to the largest logit, by the dtype that merged weights are stored in:
# rounding a weight to bfloat16 moves it by up to 2^-9 of itself.
_TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an exported model is from the run's own.

    Attributes:
      what: "adapter" or "merged".
      largest: largest absolute difference of a logit.
      scale: largest absolute logit of the run's own model.
      tolerance: largest difference allowed, relative to the scale.
    """

    what: str
    largest: float
    scale: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.largest <= self.tolerance * self.scale


def export(
    workdir: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    merged: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
) -> list[Difference]:
    """Writes a run's adapters, its merged weights, or both, and reads them back to compare.

    Logits are compared in float32, on rows of random tokens, whatever the run computed in.

    Args:
      workdir: the folder of a finished run.
      adapter: a new directory for the adapters, in PEFT's format.
      merged: a new directory for config.json, safetensors and the tokenizer's files.
      dtype: "float32" or "bfloat16", of the merged weights.

    Returns:
      One comparison for each directory that was written.

    Raises:
      ValueError: nothing to write, a directory that holds something, a run that is not finished,
        or exported logits that differ from the run's; what was written stays for inspection.
    """
    if adapter is None and merged is None:
        raise ValueError("nothing to export: give --adapter, --merged or both a directory")
    for target in (adapter, merged):
        if target is not None:
            writing.check_new(target)
    run = finished.load(workdir, f"--workdir={os.fspath(workdir)!r}")
    chosen = run.settings
    if adapter is not None and not chosen.lora.rank:
        raise ValueError("this run trained all weights (lora.rank=0): give --merged, no --adapter")
    if adapter is not None and not chosen.checkpoint:
        raise ValueError(
            "this run started from random weights, which an adapter is worth nothing without: "
            "give --merged"
        )
    config = dataclasses.replace(chosen.model, dtype="float32", attention="xla")
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=(_ROWS, _TOKENS))
    expected = _logits(models.Model(config, chosen.lora), run.parameters, tokens)
    differences = []

    def compare(what: str, load: Callable[[], models.Pretrained], tolerance: float) -> None:
        found = load().logits(tokens)
        difference = Difference(
            what,
            float(jnp.abs(found - expected).max()),
            float(jnp.abs(expected).max()),
            tolerance,
        )
        _LOG.info(
            "%s: largest difference of a logit %.2g, of logits up to %.3g",
            what,
            difference.largest,
            difference.scale,
        )
        differences.append(difference)

    if adapter is not None:
        base = os.fspath(pretrained.locate(chosen.checkpoint))
        adapters.write(
            adapter, config, chosen.lora, run.state.parameters, base=_public_name(chosen.checkpoint)
        )
        # A base that the run held in bfloat16 is rounded the same way when it is read back.
        base_dtype = chosen.model.param_dtype
        compare(
            "adapter",
            lambda: models.load(base, adapter=adapter, param_dtype=base_dtype),
            _TOLERANCES["float32"],
        )
    if merged is not None:
        weights = models.merge(_in_float32(run.parameters), chosen.lora)
        with writing.new_directory(merged) as folder:
            writing.checkpoint(folder, config, weights, dtype)
            if chosen.checkpoint:
                opened = pretrained.Checkpoint.open(pretrained.locate(chosen.checkpoint))
                opened.tokenizer.save(folder)
        compare("merged", lambda: models.load(Path(merged)), _TOLERANCES[dtype])
    for difference in differences:
        if not difference.agrees:
            raise ValueError(
                f"the {difference.what} model's logits differ from the run's by up to "
                f"{difference.largest:.3g}, of {difference.scale:.3g}; more than "
                f"{difference.tolerance:g} of it was not expected: do not use it"
            )
    return differences


def _in_float32(parameters: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters)


def _logits(model: models.Model, parameters: dict[str, Any], tokens: Any) -> jax.Array:
    return jax.jit(model.apply)(parameters, jnp.asarray(tokens, jnp.int32))


def _public_name(checkpoint: str) -> str:
    """The model as others look for it: a preset's repository, or what the config says."""
    preset = models.PRESETS.get(checkpoint)
    return checkpoint if preset is None else preset.repository
