"""A Llama-style decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The layers' parameters are stacked along a leading axis and the forward pass scans over them, so
that compile time does not grow with depth. Letters of the shape comments: B batch, T tokens,
D width, H heads, K key/value heads, E head dimension, L layers, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from partitionsel_jax.models import losses
from partitionsel_jax.models.lora import LoRAConfig
from partitionsel_jax.models.watch import UNWATCHED, Watch

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
REMAT = ("none", "layer")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and numerics of a decoder.

    Args:
      vocab_size: rows of the embedding.
      layers, width, mlp_width: depth, residual width D, inner width of the SwiGLU.
      heads, kv_heads, head_dim: query heads, key/value heads (a divisor of `heads`), their size.
      rope_theta: base of the rotary frequencies.
      norm_eps: epsilon of RMSNorm.
      tied: the output head is the embedding's transpose.
      qkv_bias: biases on q, k, v (as Qwen2 has).
      dtype: "float32" or "bfloat16", of activations and matrix products; the norms, the rotary
        angles and the logits are float32 always.
      param_dtype: the same choice, for the stored parameters.
      remat: "none", or "layer" to recompute each layer in the backward pass.
      chunk_vocab, chunk_tokens: the largest block of logits that is held; see `losses.Chunks`.

    Raises:
      ValueError: a size below 1, a theta or epsilon that is not positive, heads that kv_heads does
        not divide, an odd head_dim, or an unknown dtype or remat policy.
    """

    vocab_size: int
    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    chunk_vocab: int = losses.Chunks.vocab
    chunk_tokens: int = losses.Chunks.tokens

    def __post_init__(self):
        sizes = ("vocab_size", "layers", "width", "mlp_width", "heads", "kv_heads", "head_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim must be even for rotary, not {self.head_dim}")
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(
                    f"model.{name} must be one of {list(DTYPES)}, not {getattr(self, name)!r}"
                )
        if self.remat not in REMAT:
            raise ValueError(f"model.remat must be one of {list(REMAT)}, not {self.remat!r}")
        for name in ("rope_theta", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"model.{name} must be > 0, not {getattr(self, name)}")
        for name, least in (("chunk_vocab", 1), ("chunk_tokens", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"model.{name} must be at least {least}, not {getattr(self, name)}"
                )

    @property
    def chunks(self) -> losses.Chunks:
        return losses.Chunks(self.chunk_vocab, self.chunk_tokens)


def rotary(x_BxTxHxE: jax.Array, theta: float) -> jax.Array:
    """Rotates halves of each head by its position (RoFormer, arXiv 2104.09864, Llama layout)."""
    tokens, head_dim = x_BxTxHxE.shape[1], x_BxTxHxE.shape[3]
    frequencies_E2 = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles_TxE2 = jnp.arange(tokens, dtype=jnp.float32)[:, None] * frequencies_E2[None, :]
    cos, sin = (f(angles_TxE2)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x_BxTxHxE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxTxHxE.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with a learned scale, computed in float32."""

    def __init__(self, config: DecoderConfig):
        self.scale = nnx.Param(jnp.ones(config.width, DTYPES[config.param_dtype]))
        self.eps = config.norm_eps

    def __call__(self, x_BxTxD: jax.Array, watch: Watch) -> jax.Array:
        x = x_BxTxD.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        scale_D = self.scale[...].astype(jnp.float32)
        return watch.scale("scale", x, x * scale_D[None, None, :]).astype(x_BxTxD.dtype)


class Projection(nnx.Module):
    """A linear map [in, out], with an optional bias and an optional low-rank adapter."""

    def __init__(
        self,
        config: DecoderConfig,
        lora: LoRAConfig,
        name: str,
        sizes: tuple[int, int],
        *,
        rngs: nnx.Rngs,
    ):
        size_in, size_out = sizes
        dtype = DTYPES[config.param_dtype]
        normal = jax.nn.initializers.normal(size_in**-0.5)
        self.kernel = nnx.Param(normal(rngs.params(), (size_in, size_out), dtype))
        has_bias = config.qkv_bias and name in ("q", "k", "v")
        self.bias = nnx.Param(jnp.zeros(size_out, dtype)) if has_bias else None
        self.lora_scale = lora.scale
        self.adapted = lora.adapts(name)
        if self.adapted:
            # Adapters train in float32 whatever the base is stored in.
            self.lora_a = nnx.Param(normal(rngs.params(), (size_in, lora.rank), jnp.float32))
            self.lora_b = nnx.Param(jnp.zeros((lora.rank, size_out), jnp.float32))

    def __call__(self, x: jax.Array, watch: Watch) -> jax.Array:
        def multiply(name: str, x: jax.Array, matrix: nnx.Param) -> jax.Array:
            return watch.linear(name, x, x @ matrix[...].astype(x.dtype))

        y = multiply("kernel", x, self.kernel)
        if self.bias is not None:
            y = watch.shift("bias", y + self.bias[...].astype(x.dtype)[None, None, :])
        if self.adapted:
            low_rank = multiply("lora_a", x, self.lora_a)
            y = y + self.lora_scale * multiply("lora_b", low_rank, self.lora_b)
        return y


class Attention(nnx.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        project = functools.partial(Projection, config, lora, rngs=rngs)
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q = project("q", (config.width, queries))
        self.k = project("k", (config.width, keys))
        self.v = project("v", (config.width, keys))
        self.o = project("o", (queries, config.width))
        self.head_dim, self.theta = config.head_dim, config.rope_theta

    def __call__(self, x_BxTxD: jax.Array, watch: Watch) -> jax.Array:
        batch, tokens, _ = x_BxTxD.shape
        q, k, v = (
            getattr(self, name)(x_BxTxD, watch.at(name)).reshape(batch, tokens, -1, self.head_dim)
            for name in ("q", "k", "v")
        )
        mixed_BxTxHxE = jax.nn.dot_product_attention(
            rotary(q, self.theta), rotary(k, self.theta), v, is_causal=True
        )
        return self.o(mixed_BxTxHxE.reshape(batch, tokens, -1), watch.at("o"))


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        project = functools.partial(Projection, config, lora, rngs=rngs)
        self.gate = project("gate", (config.width, config.mlp_width))
        self.up = project("up", (config.width, config.mlp_width))
        self.down = project("down", (config.mlp_width, config.width))

    def __call__(self, x_BxTxD: jax.Array, watch: Watch) -> jax.Array:
        gate = jax.nn.silu(self.gate(x_BxTxD, watch.at("gate")))
        return self.down(gate * self.up(x_BxTxD, watch.at("up")), watch.at("down"))


class Layer(nnx.Module):
    """Pre-norm attention and MLP, each with a residual connection."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, lora, rngs=rngs)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(config, lora, rngs=rngs)

    def __call__(self, x_BxTxD: jax.Array, watch: Watch) -> jax.Array:
        def block(name: str, x: jax.Array) -> jax.Array:
            normed = getattr(self, f"{name}_norm")(x, watch.at(f"{name}_norm"))
            return x + getattr(self, name)(normed, watch.at(name))

        return block("mlp", block("attention", x_BxTxD))


class Decoder(nnx.Module):
    """The whole model; every leaf under `layers` has a leading axis L."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        dtype = DTYPES[config.param_dtype]
        table = (config.vocab_size, config.width)
        # The embedding doubles as the head when tied, hence its scale is the head's.
        normal = jax.nn.initializers.normal(config.width**-0.5)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs):
            return Layer(config, lora, rngs=rngs)

        self.embedding = nnx.Param(normal(rngs.params(), table, dtype))
        self.layers = stacked(rngs)
        self.norm = RMSNorm(config)
        self.head = None if config.tied else nnx.Param(normal(rngs.params(), table[::-1], dtype))
        self.config = config

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        """Next-token logits f32[B, T, V]; right padding needs no mask, as attention is causal."""
        x_BxTxD = self.hidden(tokens_BxT)
        head, vocab_axis, _ = self._head()
        return jax.lax.dot_general(
            x_BxTxD,
            head.astype(x_BxTxD.dtype),
            (((2,), (1 - vocab_axis,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    def _head(self) -> tuple[jax.Array, int, str]:
        """The output head's matrix, the axis of it that the vocabulary lies on, and its name."""
        if self.head is None:
            return self.embedding[...], 0, "embedding"
        return self.head[...], 1, "head"

    def hidden(
        self, tokens_BxT: jax.Array, stop_below: int = 0, watch: Watch = UNWATCHED
    ) -> jax.Array:
        """What the head reads: the last layer's output, normalised; [B, T, D].

        Args:
          tokens_BxT: i32[B, T].
          stop_below: static; no gradient flows into the first `stop_below` layers or the
            embedding lookup, and the backward pass ends there.
          watch: sees the layers above `stop_below`, the final norm and, if nothing is stopped, the
            lookup.
        """
        config = self.config
        x_BxTxD = self.embedding[...].astype(DTYPES[config.dtype])[tokens_BxT]
        graph, stacked = nnx.split(self.layers)

        def apply(x: jax.Array, parameters: Any, watch: Watch) -> jax.Array:
            return nnx.merge(graph, parameters)(x, watch)

        if stop_below:
            # By index, so that the lower layers' parameters are not copied; and without tangents,
            # so that this scan is never transposed.
            fixed = jax.lax.stop_gradient(stacked)

            def below(x: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
                return apply(x, jax.tree.map(lambda leaf: leaf[number], fixed), UNWATCHED), None

            x_BxTxD, _ = jax.lax.scan(below, x_BxTxD, jnp.arange(stop_below))
            x_BxTxD = jax.lax.stop_gradient(x_BxTxD)
            stacked = jax.tree.map(lambda leaf: leaf[stop_below:], stacked)
        else:
            x_BxTxD = watch.lookup("embedding", tokens_BxT, x_BxTxD)

        def layer(x: jax.Array, piece: Any) -> tuple[jax.Array, None]:
            return apply(x, piece[0], watch.layer(piece[1])), None

        if config.remat == "layer":
            layer = jax.checkpoint(layer, prevent_cse=False)
        x_BxTxD, _ = jax.lax.scan(layer, x_BxTxD, (stacked, watch.layers))
        return self.norm(x_BxTxD, watch.at("norm"))

    def losses(
        self,
        tokens_BxT: jax.Array,
        response_BxT: jax.Array,
        stop_below: int = 0,
        watch: Watch = UNWATCHED,
    ) -> jax.Array:
        """Mean cross-entropy of every example over its response tokens, f32[B].

        Only response tokens reach the head, and no [B, T, V] array is made. `response_BxT` is
        True at response tokens; see `hidden` for the other arguments.
        """
        x_BxTxD = self.hidden(tokens_BxT, stop_below, watch)
        head, vocab_axis, name = self._head()
        probe = watch.probe(name, vocab_axis)
        if probe is None:
            return losses.response_losses(
                x_BxTxD,
                head,
                tokens_BxT,
                response_BxT,
                vocab_axis=vocab_axis,
                chunks=self.config.chunks,
            )
        x_BxTxD = x_BxTxD[:, :-1]
        targets, counted = losses.shift(tokens_BxT, response_BxT)
        nll, residual = losses.head_losses(
            x_BxTxD,
            head,
            targets,
            counted,
            vocab_axis=vocab_axis,
            chunks=self.config.chunks,
            probe=probe,
        )
        nll = watch.head(name, vocab_axis, x_BxTxD, residual, nll)
        return losses.mean_over_response(nll, counted)


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder as pure functions of its parameters, which are a nested dict of arrays.

    The NNX module is split once here; training steps carry the plain dict, and `apply` merges it
    again inside the traced function.
    """

    config: DecoderConfig
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)

    @functools.cached_property
    def _graph(self) -> Any:
        return nnx.split(nnx.eval_shape(self._build, jax.random.key(0)))[0]

    def _build(self, key: jax.Array) -> Decoder:
        return Decoder(self.config, self.lora, rngs=nnx.Rngs(params=key))

    @functools.partial(jax.jit, static_argnums=0)
    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters as a nested dict, e.g. ["layers"]["attention"]["q"]["kernel"] f[L, in, out].

        Args:
          key: a `jax.random.key`; the same key gives the same parameters.
        """
        return nnx.to_pure_dict(nnx.split(self._build(key))[1])

    def _merge(self, parameters: dict[str, Any]) -> Decoder:
        return nnx.merge(self._graph, nnx.State(parameters))

    def apply(self, parameters: dict[str, Any], tokens_BxT: jax.Array) -> jax.Array:
        """Logits f32[B, T, V] of tokens i32[B, T]; see `Decoder.__call__`."""
        return self._merge(parameters)(tokens_BxT)

    def losses(
        self,
        parameters: dict[str, Any],
        tokens_BxT: jax.Array,
        response_BxT: jax.Array,
        stop_below: int = 0,
        watch: Watch = UNWATCHED,
    ) -> jax.Array:
        """Losses f32[B] of tokens i32[B, T] over their response tokens; see `Decoder.losses`."""
        return self._merge(parameters).losses(tokens_BxT, response_BxT, stop_below, watch)
