"""A Llama-style decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The layers' parameters are stacked along a leading axis and the forward pass scans over them, so
that compile time does not grow with depth. Letters of the shape comments: B batch, T tokens,
D width, H heads, K key/value heads, E head dimension, L layers, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from partitionsel_jax.models import losses
from partitionsel_jax.models.cache import Cache, Reading
from partitionsel_jax.models.config import DTYPES, DecoderConfig
from partitionsel_jax.models.lora import LoRAConfig
from partitionsel_jax.models.rotary import rotary
from partitionsel_jax.models.shards import Gathering
from partitionsel_jax.models.taps import NO_TAP, Tap

# What `remat` keeps of a layer for the backward pass.
_SAVED = {
    "layer": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with a learned scale, computed in float32."""

    def __init__(self, config: DecoderConfig):
        self.scale = nnx.Param(jnp.ones(config.width, DTYPES[config.param_dtype]))
        self.eps = config.norm_eps

    def __call__(self, x_BxTxD: jax.Array, tap: Tap) -> jax.Array:
        x = x_BxTxD.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        scale_D = self.scale[...].astype(jnp.float32)
        return tap.scale("scale", x, x * scale_D[None, None, :]).astype(x_BxTxD.dtype)


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
        self.bias = nnx.Param(jnp.zeros(size_out, dtype)) if name in config.biases else None
        self.lora_scale = lora.scale
        self.adapted = lora.adapts(name)
        if self.adapted:
            # Adapters train in float32 whatever the base is stored in.
            self.lora_a = nnx.Param(normal(rngs.params(), (size_in, lora.rank), jnp.float32))
            self.lora_b = nnx.Param(jnp.zeros((lora.rank, size_out), jnp.float32))

    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        def multiply(name: str, x: jax.Array, matrix: nnx.Param) -> jax.Array:
            return tap.linear(name, x, x @ matrix[...].astype(x.dtype))

        y = multiply("kernel", x, self.kernel)
        if self.bias is not None:
            y = tap.shift("bias", y + self.bias[...].astype(x.dtype)[None, None, :])
        if self.adapted:
            low_rank = multiply("lora_a", tap.drop(x), self.lora_a)
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
        self.config = config

    def __call__(
        self, x_BxTxD: jax.Array, tap: Tap, reading: Reading | None = None
    ) -> tuple[jax.Array, Reading | None]:
        batch, tokens, _ = x_BxTxD.shape
        q, k, v = (
            getattr(self, name)(x_BxTxD, tap.at(name)).reshape(
                batch, tokens, -1, self.config.head_dim
            )
            for name in ("q", "k", "v")
        )
        positions = jnp.arange(tokens)[None] if reading is None else reading.positions
        q, k = rotary(q, positions, self.config), rotary(k, positions, self.config)
        if reading is None:
            mixed_BxTxHxE = jax.nn.dot_product_attention(
                q, k, v, is_causal=True, implementation=self.config.attention
            )
        else:
            reading = reading.remember(k, v)
            keys, values, mask = reading.recall()
            mixed_BxTxHxE = jax.nn.dot_product_attention(q, keys, values, mask=mask)
        return self.o(mixed_BxTxHxE.reshape(batch, tokens, -1), tap.at("o")), reading


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        project = functools.partial(Projection, config, lora, rngs=rngs)
        self.gate = project("gate", (config.width, config.mlp_width))
        self.up = project("up", (config.width, config.mlp_width))
        self.down = project("down", (config.mlp_width, config.width))

    def __call__(self, x_BxTxD: jax.Array, tap: Tap) -> jax.Array:
        gate = jax.nn.silu(self.gate(x_BxTxD, tap.at("gate")))
        return self.down(gate * self.up(x_BxTxD, tap.at("up")), tap.at("down"))


class Layer(nnx.Module):
    """Pre-norm attention and MLP, each with a residual connection."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, lora, rngs=rngs)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(config, lora, rngs=rngs)

    def __call__(
        self, x_BxTxD: jax.Array, tap: Tap, reading: Reading | None = None
    ) -> tuple[jax.Array, Reading | None]:
        normed = self.attention_norm(x_BxTxD, tap.at("attention_norm"))
        mixed, reading = self.attention(normed, tap.at("attention"), reading)
        x_BxTxD = x_BxTxD + mixed
        normed = self.mlp_norm(x_BxTxD, tap.at("mlp_norm"))
        return x_BxTxD + self.mlp(normed, tap.at("mlp")), reading


class Decoder(nnx.Module):
    """The whole model; every leaf under `layers` has a leading axis L."""

    def __init__(
        self,
        config: DecoderConfig,
        lora: LoRAConfig,
        gathering: Gathering | None = None,
        *,
        rngs: nnx.Rngs,
    ):
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
        self.gathering = gathering

    def _whole(self, name: str) -> jax.Array:
        """A parameter outside the layers, gathered from the devices where they split it."""
        leaf = getattr(self, name)[...]
        return leaf if self.gathering is None else self.gathering.whole((name,), leaf)

    def _layer(self, graph: Any, parameters: Any) -> Any:
        """The layer that one slice of the stacked parameters makes, gathered where split."""
        if self.gathering is not None:
            parameters = nnx.State(self.gathering.whole_layer(nnx.to_pure_dict(parameters)))
        return nnx.merge(graph, parameters)

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        """Next-token logits f32[B, T, V]; right padding needs no mask, as attention is causal."""
        return self.logits(self.hidden(tokens_BxT))

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits f32[..., V] of the head's input [..., D]."""
        head, vocab_axis, _ = self._head()
        return jax.lax.dot_general(
            x,
            head.astype(x.dtype),
            (((x.ndim - 1,), (1 - vocab_axis,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    def _head(self) -> tuple[jax.Array, int, str]:
        """The output head's matrix, the axis of it that the vocabulary lies on, and its name."""
        if self.head is None:
            return self._whole("embedding"), 0, "embedding"
        return self._whole("head"), 1, "head"

    def _lookup(self, tokens_BxT: jax.Array) -> jax.Array:
        return self._whole("embedding")[tokens_BxT].astype(DTYPES[self.config.dtype])

    def hidden(self, tokens_BxT: jax.Array, stop_below: int = 0, tap: Tap = NO_TAP) -> jax.Array:
        """Computes the head's input: the last layer's output, normalised; [B, T, D].

        Args:
          tokens_BxT: i32[B, T].
          stop_below: static; no gradient flows into the first `stop_below` layers or the
            embedding lookup, and the backward pass ends there.
          tap: sees the layers above `stop_below`, the final norm and, if nothing is stopped, the
            lookup.
        """
        config = self.config
        x_BxTxD = self._lookup(tokens_BxT)
        graph, stacked = nnx.split(self.layers)

        def apply(x: jax.Array, parameters: Any, tap: Tap) -> jax.Array:
            return self._layer(graph, parameters)(x, tap)[0]

        if stop_below:
            # By index, so that the lower layers' parameters are not copied; and without tangents,
            # so that this scan is never transposed.
            fixed = jax.lax.stop_gradient(stacked)

            def below(x: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
                return apply(x, jax.tree.map(lambda leaf: leaf[number], fixed), NO_TAP), None

            x_BxTxD, _ = jax.lax.scan(below, x_BxTxD, jnp.arange(stop_below))
            x_BxTxD = jax.lax.stop_gradient(x_BxTxD)
            stacked = jax.tree.map(lambda leaf: leaf[stop_below:], stacked)
        else:
            x_BxTxD = tap.lookup("embedding", tokens_BxT, x_BxTxD)

        def layer(x: jax.Array, piece: Any) -> tuple[jax.Array, None]:
            return apply(x, piece[0], tap.layer(piece[1])), None

        if config.remat != "none":
            layer = jax.checkpoint(layer, prevent_cse=False, policy=_SAVED[config.remat])
        x_BxTxD, _ = jax.lax.scan(layer, x_BxTxD, (stacked, tap.layers))
        return self.norm(x_BxTxD, tap.at("norm"))

    def read(
        self, tokens_BxT: jax.Array, positions_BxT: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Computes `hidden` of tokens behind those in the cache, and adds them to the cache.

        Args:
          tokens_BxT: i32[B, T].
          positions_BxT: i32[B, T], their places in the row, each from 0.
          cache: holds all tokens before them.
        """
        graph, stacked = nnx.split(self.layers)

        def layer(carry: Any, piece: Any) -> tuple[Any, None]:
            x, cache = carry
            parameters, number = piece
            reading = Reading(cache, number, positions_BxT)
            x, reading = self._layer(graph, parameters)(x, NO_TAP, reading)
            return (x, reading.cache), None

        start = (self._lookup(tokens_BxT), cache)
        numbers = jnp.arange(self.config.layers)
        (x_BxTxD, cache), _ = jax.lax.scan(layer, start, (stacked, numbers))
        return self.norm(x_BxTxD, NO_TAP), cache

    def losses(
        self,
        tokens_BxT: jax.Array,
        response_BxT: jax.Array,
        stop_below: int = 0,
        tap: Tap = NO_TAP,
    ) -> jax.Array:
        """Mean cross-entropy of every example over its response tokens, f32[B].

        Only response tokens reach the head, and no [B, T, V] array is made. `response_BxT` is
        True at response tokens; see `hidden` for the other arguments.
        """
        x_BxTxD = self.hidden(tokens_BxT, stop_below, tap)[:, :-1]
        head, vocab_axis, name = self._head()
        targets, counted = losses.shift(tokens_BxT, response_BxT)
        probe = tap.probe(name, vocab_axis)
        nll = losses.head_losses(
            x_BxTxD,
            head,
            targets,
            counted,
            vocab_axis=vocab_axis,
            chunks=self.config.chunks,
            probe=probe,
        )
        if probe is not None:
            nll, residual = nll
            nll = tap.head(name, vocab_axis, x_BxTxD, residual, nll)
        return losses.mean_over_response(nll, counted)
