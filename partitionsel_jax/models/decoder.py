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

from partitionsel_jax.models.lora import LoRAConfig

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

    Raises:
      ValueError: a size below 1, heads that kv_heads does not divide, an odd head_dim, or an
        unknown dtype or remat policy.
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

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        x = x_BxTxD.astype(jnp.float32)
        variance = jnp.mean(x * x, axis=-1, keepdims=True)
        scale_D = self.scale[...].astype(jnp.float32)
        return (x * jax.lax.rsqrt(variance + self.eps) * scale_D[None, None, :]).astype(
            x_BxTxD.dtype
        )


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

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)[None, None, :]
        if self.adapted:
            low_rank = x @ self.lora_a[...].astype(x.dtype)
            y = y + self.lora_scale * (low_rank @ self.lora_b[...].astype(x.dtype))
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

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        batch, tokens, _ = x_BxTxD.shape
        q, k, v = (
            projection(x_BxTxD).reshape(batch, tokens, -1, self.head_dim)
            for projection in (self.q, self.k, self.v)
        )
        mixed_BxTxHxE = jax.nn.dot_product_attention(
            rotary(q, self.theta), rotary(k, self.theta), v, is_causal=True
        )
        return self.o(mixed_BxTxHxE.reshape(batch, tokens, -1))


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        project = functools.partial(Projection, config, lora, rngs=rngs)
        self.gate = project("gate", (config.width, config.mlp_width))
        self.up = project("up", (config.width, config.mlp_width))
        self.down = project("down", (config.mlp_width, config.width))

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x_BxTxD)) * self.up(x_BxTxD))


class Layer(nnx.Module):
    """Pre-norm attention and MLP, each with a residual connection."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, lora, rngs=rngs)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(config, lora, rngs=rngs)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        x = x_BxTxD + self.attention(self.attention_norm(x_BxTxD))
        return x + self.mlp(self.mlp_norm(x))


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

    def __call__(self, tokens_BxT: jax.Array, *, stop_below: int = 0) -> jax.Array:
        """Next-token logits.

        Args:
          tokens_BxT: i32[B, T]; right padding needs no mask, since attention is causal.
          stop_below: static; no gradient flows into the first `stop_below` layers or the
            embedding lookup, and the backward pass ends there.

        Returns:
          f32[B, T, V].
        """
        config = self.config
        x_BxTxD = self.embedding[...].astype(DTYPES[config.dtype])[tokens_BxT]
        graph, stacked = nnx.split(self.layers)

        def layer(x, parameters):
            return nnx.merge(graph, parameters)(x), None

        if config.remat == "layer":
            layer = jax.checkpoint(layer, prevent_cse=False)
        if stop_below:
            # Two scans, so that the first is free of tangents and is never transposed.
            below = jax.tree.map(lambda leaf: leaf[:stop_below], stacked)
            x_BxTxD, _ = jax.lax.scan(layer, x_BxTxD, jax.lax.stop_gradient(below))
            x_BxTxD = jax.lax.stop_gradient(x_BxTxD)
            stacked = jax.tree.map(lambda leaf: leaf[stop_below:], stacked)
        x_BxTxD, _ = jax.lax.scan(layer, x_BxTxD, stacked)
        x_BxTxD = self.norm(x_BxTxD)
        head_DxV = self.embedding[...].T if self.head is None else self.head[...]
        return jnp.dot(x_BxTxD, head_DxV.astype(x_BxTxD.dtype), preferred_element_type=jnp.float32)


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

    def apply(self, parameters: dict[str, Any], tokens_BxT: jax.Array, stop_below: int = 0):
        """Logits f32[B, T, V] of tokens i32[B, T]; see `Decoder.__call__`."""
        return nnx.merge(self._graph, nnx.State(parameters))(tokens_BxT, stop_below=stop_below)
