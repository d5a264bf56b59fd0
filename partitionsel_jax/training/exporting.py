"""Exports a finished run's adapters and merged weights for other libraries, and checks them."""

import dataclasses
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import data, hub, models
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.models import pretrained
from partitionsel_jax.models.pretrained import adapters, writing
from partitionsel_jax.training import starts

_LOG = logging.getLogger(__name__)

# Rows and tokens that logits are compared on.
_ROWS, _TOKENS = 2, 64
# Largest difference of logits that are the same but for the order of float32 sums, relative to the
# largest of them; 30 layers were seen to reach 4e-6.
TOLERANCE = 5e-5


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an exported model is from the run's own.

    Attributes:
      what: "adapter" or "merged".
      largest: largest absolute difference of a logit between what was read back and what was
        written.
      scale: largest absolute logit of the run's own model.
      rounding: largest absolute difference of a logit that comes of rounding merged weights to
        their dtype; 0 in float32.
    """

    what: str
    largest: float
    scale: float
    rounding: float = 0.0

    @property
    def agrees(self) -> bool:
        return self.largest <= TOLERANCE * self.scale


def export(
    workdir: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    merged: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
) -> list[Difference]:
    """Writes a run's adapters, its merged weights, or both, and reads them back to compare.

    Logits are compared in float32 at full precision, on rows of random tokens, whatever the run
    computed in.

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
    targets = [writing.check_new(target) for target in (adapter, merged) if target is not None]
    if any(one.is_relative_to(other) for one, other in itertools.permutations(targets, 2)):
        raise ValueError("--adapter and --merged must be apart: name two directories side by side")
    name = f"--workdir={os.fspath(workdir)!r}"
    if adapter is not None:
        _check_adapted(starts.settings_of(workdir, name))
    run = starts.load_finished(workdir, name)
    # An accelerator's quick products would show larger differences than any that matter.
    with jax.default_matmul_precision("highest"):
        expected = _logits(run, run.settings.lora, run.parameters)
        differences = []
        if adapter is not None:
            differences.append(_export_adapter(run, expected, adapter))
        if merged is not None:
            differences.append(_export_merged(run, expected, merged, dtype))
    for found in differences:
        text = f"{found.what}: largest difference of a logit {found.largest:.2g}"
        _LOG.info(f"{text}, of logits up to {found.scale:.3g}")
        if found.rounding:
            _LOG.info(
                f"{found.what}: rounding the weights to {dtype} moves them by up to "
                f"{found.rounding:.2g} more"
            )
    for found in differences:
        if not found.agrees:
            raise ValueError(
                f"the {found.what} model's logits differ from the run's by up to "
                f"{found.largest:.3g}, of {found.scale:.3g}; more than {TOLERANCE:g} of "
                "it was not expected: do not use it"
            )
    return differences


def _check_adapted(settings: Settings) -> None:
    if not settings.lora.rank:
        raise ValueError("this run trained all weights (lora.rank=0): give --merged, no --adapter")
    if not settings.checkpoint:
        raise ValueError(
            "this run started from random weights, which an adapter is worth nothing without: "
            "give --merged"
        )


def _export_adapter(
    run: starts.FinishedRun, expected: jax.Array, target: str | os.PathLike[str]
) -> Difference:
    chosen = run.settings
    base, revision = chosen.checkpoint, None
    if base in models.PRESETS:
        # By this name others find it; what this machine holds of it may be a quantised copy.
        base = models.PRESETS[base].repository
        _LOG.info(
            "the adapter names %s as its base; it was trained on %s",
            base,
            pretrained.locate(chosen.checkpoint),
        )
    elif base in pretrained.TINY or pretrained.as_path(base) is not None:
        base = os.fspath(pretrained.locate(base))
    else:
        base, revision = hub.parted(base)
    parameters = run.state.parameters
    adapters.write(target, chosen.model, chosen.lora, parameters, base=base, revision=revision)
    # A base that the run held in bfloat16 is rounded the same way when it is read back.
    again = models.load(chosen.checkpoint, param_dtype=chosen.model.param_dtype, adapter=target)
    return _compared("adapter", again, expected, expected)


def _export_merged(
    run: starts.FinishedRun, expected: jax.Array, target: str | os.PathLike[str], dtype: str
) -> Difference:
    chosen = run.settings
    weights = models.merge(run.parameters, chosen.lora, jnp.dtype(dtype))
    write_model(target, chosen.model, weights, starts.tokenizer(chosen), dtype)
    # In float32 it must be what the adapters say beside the base; rounded, what was rounded.
    reference, rounding = expected, 0.0
    if dtype != "float32":
        reference = _logits(run, models.LoRAConfig(), weights)
        rounding = float(jnp.abs(reference - expected).max())
    del weights
    again = models.load(Path(target).expanduser(), param_dtype=dtype)
    return _compared("merged", again, reference, expected, rounding)


def write_model(
    target: str | os.PathLike[str],
    config: models.DecoderConfig,
    parameters: dict[str, Any],
    tokenizer: data.Tokenizer,
    dtype: str,
) -> None:
    """Writes a model and its tokenizer into a new directory, in a hub's format.

    Args:
      target: the directory.
      config, parameters: of a decoder without adapters.
      tokenizer: its own; of the byte-level one, other libraries know nothing.
      dtype: "float32" or "bfloat16", of the weights.

    Raises:
      ValueError: a directory that holds something.
    """
    bos_id, eos_id = tokenizer.bos_id, tokenizer.eos_id
    with writing.new_directory(target) as folder:
        tokenizer.save(folder)
        writing.checkpoint(folder, config, parameters, dtype, bos_id=bos_id, eos_id=eos_id)


def _compared(
    what: str,
    found: models.Pretrained,
    reference: jax.Array,
    expected: jax.Array,
    rounding: float = 0.0,
) -> Difference:
    largest = jnp.abs(found.logits(_tokens(found.config.vocab_size)) - reference).max()
    return Difference(what, float(largest), float(jnp.abs(expected).max()), rounding)


def _logits(
    run: starts.FinishedRun, lora: models.LoRAConfig, parameters: dict[str, Any]
) -> jax.Array:
    config = dataclasses.replace(run.settings.model, dtype="float32", attention="xla")
    return jax.jit(models.Model(config, lora).apply)(parameters, _tokens(config.vocab_size))


def _tokens(vocab_size: int) -> np.ndarray:
    """Random tokens that logits are compared on."""
    tokens = np.random.default_rng(0).integers(vocab_size, size=(_ROWS, _TOKENS))
    return tokens.astype(np.int32)
