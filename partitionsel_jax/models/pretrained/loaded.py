"""A pretrained model in memory: logits and text, for whoever does not train it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import data
from partitionsel_jax.models import generation
from partitionsel_jax.models.config import DTYPES, DecoderConfig, LoRAConfig
from partitionsel_jax.models.decoder import Model
from partitionsel_jax.models.parameters import join
from partitionsel_jax.models.pretrained import adapters
from partitionsel_jax.models.pretrained.checkpoint import Checkpoint
from partitionsel_jax.models.pretrained.locating import locate

_apply = jax.jit(Model.apply, static_argnums=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A decoder with weights and a tokenizer.

    Attributes:
      model, parameters: the decoder and its weights, adapters included.
      checkpoint: where they came from.
    """

    model: Model
    parameters: dict[str, Any] = dataclasses.field(repr=False)
    checkpoint: Checkpoint

    @property
    def config(self) -> DecoderConfig:
        """The decoder's shape and numerics."""
        return self.model.config

    @property
    def tokenizer(self) -> data.Tokenizer:
        """The checkpoint's tokenizer; see `data.load_tokenizer` for its rule of special tokens.

        Raises:
          ValueError: the checkpoint has none.
        """
        return self.checkpoint.tokenizer

    def logits(self, tokens: Any) -> jax.Array:
        """Next-token logits f32[B, T, V] of tokens i32[B, T]; compiled once for each shape.

        Raises:
          ValueError: another rank, ids outside the vocabulary, or rows longer than the context.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2:
            raise ValueError(f"expected tokens [B, T], got shape {list(tokens.shape)}")
        generation.check_ids(tokens, self.config.vocab_size, "tokens")
        context = self.config.context
        if context and tokens.shape[1] > context:
            raise ValueError(
                f"rows of {tokens.shape[1]} tokens exceed the model's context of {context}: "
                "shorten them"
            )
        return _apply(self.model, self.parameters, jnp.asarray(tokens, jnp.int32))

    def generate(
        self,
        prompts: Sequence[str],
        *,
        new_tokens: int = 256,
        template: str = "plain",
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Answers to prompts, as text; special tokens are not part of it.

        Args:
          prompts: questions or instructions.
          new_tokens: most tokens of an answer.
          template: one of `data.TEMPLATES`, how a prompt is put to the model; "chat" for models
            that were trained with their tokenizer's chat template.
          temperature, top_p, seed: see `generate`.

        Raises:
          ValueError: an unknown template, a chat template that is not there, or what
            `models.generate` refuses.
        """
        if isinstance(prompts, str):
            raise ValueError(
                f"expected a list of prompts, got the text {prompts[:40]!r}: put it in one"
            )
        make = data.check_template(template, self.tokenizer)
        written = generation.generate(
            self.model,
            self.parameters,
            [make(prompt, self.tokenizer) for prompt in prompts],
            new_tokens=new_tokens,
            stops=self.tokenizer.stop_ids,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        return [self.tokenizer.decode(ids) for ids in written]


def load(
    source: str | os.PathLike[str],
    dtype: str = "float32",
    *,
    param_dtype: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> Pretrained:
    """Loads a pretrained model onto the default device.

    Args:
      source: a checkpoint directory in a hub's format, a GGUF file, a preset's name
        (`python -m experiments.fetch` brings it), or a repository "owner/name[@revision]".
      dtype: "float32" or "bfloat16", of weights and computation alike. Accelerators multiply
        float32 matrices at less than full precision unless `jax.default_matmul_precision` tells
        them not to.
      param_dtype: another one for the weights.
      adapter: a directory in PEFT's format, whose adapters are put on the model.

    Raises:
      ValueError: whatever is missing, damaged, unknown or does not fit, by file and tensor.
    """
    param_dtype = param_dtype or dtype
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if value not in DTYPES:
            raise ValueError(f"{name} must be one of {list(DTYPES)}, not {value!r}")
    checkpoint = Checkpoint.open(locate(source))
    config = dataclasses.replace(checkpoint.config, dtype=dtype, param_dtype=param_dtype)
    if checkpoint.has_tokenizer:
        checkpoint.tokenizer  # noqa: B018  (its own checks, before the weights are read)
    lora, tree = LoRAConfig(), dict[str, Any]()
    if adapter is not None:
        lora, tree = adapters.read(adapter, config)
    return Pretrained(
        Model(config, lora), join(checkpoint.parameters(param_dtype), tree), checkpoint
    )
