"""A Llama-style decoder in Flax NNX: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The layers' parameters are stacked along a leading axis and the forward pass scans over them, so
that compile time does not grow with depth. Letters of the shape comments: B batch, T tokens,
D width, H heads, K key/value heads, E head dimension, L layers, S slots of the cache, V vocabulary.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from partitionsel_jax.models.config import DTYPES, PROJECTIONS, DecoderConfig, LoRAConfig
from partitionsel_jax.models.losses import head_losses
from partitionsel_jax.models.parameters import Gathering
from partitionsel_jax.models.taps import NO_TAP, Tap

# What `remat` keeps of a layer for the backward pass.
_SAVED = {
    "layer": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Cache(NamedTuple):
    """Keys and values of all layers; slot s of a row belongs to its position s.

    Slots past a row's last token may hold anything: they are masked, and later tokens overwrite
    them.

    Attributes:
      keys, values: f[L, B, S, K, E], in the decoder's dtype; the keys are rotated.
    """

    keys: jax.Array
    values: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, rows: int, slots: int) -> "Cache":
        """A cache of zeros."""
        shape = (config.layers, rows, slots, config.kv_heads, config.head_dim)
        return cls(*(jnp.zeros(shape, DTYPES[config.dtype]) for _ in range(2)))


class Reading(NamedTuple):
    """The cache as one layer sees it while it reads new tokens.

    Attributes:
      cache: of all layers, since the scan over them carries it and updates it in place.
      layer: i32[], which of them this is.
      positions: i32[B, T], the new tokens' positions; one outside the slots is not written.
    """

    cache: Cache
    layer: Any
    positions: jax.Array

    def attend(
        self, q_BxTxHxE: jax.Array, k_BxTxKxE: jax.Array, v_BxTxKxE: jax.Array
    ) -> tuple[jax.Array, "Reading"]:
        """Writes the new tokens' keys and values, and mixes all values up to each token's own."""
        rows = jnp.arange(self.positions.shape[0])[:, None]
        place = (self.layer, rows, self.positions)
        new = zip(self.cache, (k_BxTxKxE, v_BxTxKxE), strict=True)
        cache = Cache(*(kept.at[place].set(fresh, mode="drop") for kept, fresh in new))
        keys_BxSxKxE, values_BxSxKxE = (kept[self.layer] for kept in cache)
        slots = jnp.arange(keys_BxSxKxE.shape[1])
        seen_BxTxS = slots[None, None, :] <= self.positions[:, :, None]
        mixed_BxTxHxE = jax.nn.dot_product_attention(
            q_BxTxHxE, keys_BxSxKxE, values_BxSxKxE, mask=seen_BxTxS[:, None]
        )
        return mixed_BxTxHxE, self._replace(cache=cache)


def rotary(x_BxTxHxE: jax.Array, positions_BxT: jax.Array, config: DecoderConfig) -> jax.Array:
    """Rotates halves of each head by its position (RoFormer, arXiv 2104.09864).

    A leading axis of 1 in `positions_BxT` stands for every row.
    """
    frequencies_E2 = jnp.asarray(config.frequencies(), jnp.float32)
    angles_BxTxE2 = positions_BxT.astype(jnp.float32)[..., None] * frequencies_E2[None, None, :]
    cos, sin = (f(angles_BxTxE2)[:, :, None, :] for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x_BxTxHxE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxTxHxE.dtype)


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
    """A linear map [in, out], with an optional bias and an optional low-rank adapter.

    Its matrix is `kernel`, or the product of `kernel_a` and `kernel_b`, which is never formed.
    """

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, name: str, *, rngs: nnx.Rngs):
        size_in, size_out = config.projections[name]
        dtype = DTYPES[config.param_dtype]
        normal = jax.nn.initializers.normal
        matrices = config.matrices(name)
        for matrix, shape in matrices.items():
            drawn = normal(shape[0] ** -0.5)(rngs.params(), shape, dtype)
            setattr(self, matrix, nnx.Param(drawn))
        self.matrices = tuple(matrices)
        self.bias = nnx.Param(jnp.zeros(size_out, dtype)) if name in config.biases else None
        self.lora_scale = lora.scale
        self.adapted = lora.rank > 0 and name in lora.targets
        if self.adapted:
            # Adapters train in float32 whatever the base is stored in.
            shape = (size_in, lora.rank)
            self.lora_a = nnx.Param(normal(size_in**-0.5)(rngs.params(), shape, jnp.float32))
            self.lora_b = nnx.Param(jnp.zeros((lora.rank, size_out), jnp.float32))

    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        def product(y: jax.Array, name: str) -> jax.Array:
            return tap.linear(name, y, y @ getattr(self, name)[...].astype(y.dtype))

        y = functools.reduce(product, self.matrices, x)
        if self.bias is not None:
            y = tap.shift("bias", y + self.bias[...].astype(x.dtype)[None, None, :])
        if self.adapted:
            y = y + self.lora_scale * functools.reduce(product, ("lora_a", "lora_b"), tap.drop(x))
        return y


class Layer(nnx.Module):
    """Pre-norm attention and SwiGLU (arXiv 2002.05202), each with a residual connection."""

    def __init__(self, config: DecoderConfig, lora: LoRAConfig, *, rngs: nnx.Rngs):
        made = {name: Projection(config, lora, name, rngs=rngs) for name in PROJECTIONS}
        self.attention_norm = RMSNorm(config)
        self.attention = nnx.Dict({name: made[name] for name in ("q", "k", "v", "o")})
        self.mlp_norm = RMSNorm(config)
        self.mlp = nnx.Dict({name: made[name] for name in ("gate", "up", "down")})
        self.config = config

    def __call__(
        self, x_BxTxD: jax.Array, tap: Tap, reading: Reading | None = None
    ) -> tuple[jax.Array, Reading | None]:
        batch, tokens, _ = x_BxTxD.shape
        normed, here = self.attention_norm(x_BxTxD, tap.at("attention_norm")), tap.at("attention")
        q, k, v = (
            self.attention[name](normed, here.at(name)).reshape(
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
            mixed_BxTxHxE, reading = reading.attend(q, k, v)
        mixed = mixed_BxTxHxE.reshape(batch, tokens, -1)
        x_BxTxD = x_BxTxD + self.attention["o"](mixed, here.at("o"))

        normed, here = self.mlp_norm(x_BxTxD, tap.at("mlp_norm")), tap.at("mlp")
        gate = jax.nn.silu(self.mlp["gate"](normed, here.at("gate")))
        inner = gate * self.mlp["up"](normed, here.at("up"))
        return x_BxTxD + self.mlp["down"](inner, here.at("down")), reading


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
        stacked = nnx.vmap(lambda rngs: Layer(config, lora, rngs=rngs))
        self.embedding = nnx.Param(normal(rngs.params(), table, dtype))
        self.layers = nnx.split_rngs(splits=config.layers)(stacked)(rngs)
        self.norm = RMSNorm(config)
        self.head = None if config.tied else nnx.Param(normal(rngs.params(), table[::-1], dtype))
        # The output head's parameter, and the axis of it that the vocabulary lies on.
        self.head_name, self.vocab_axis = ("embedding", 0) if config.tied else ("head", 1)
        self.config = config
        self.gathering = gathering

    def whole(self, name: str) -> jax.Array:
        """A parameter outside the layers, gathered from the devices where they split it."""
        leaf = getattr(self, name)[...]
        return leaf if self.gathering is None else self.gathering.whole((name,), leaf)

    def _layer(self, graph: Any, parameters: Any) -> Any:
        """The layer that one slice of the stacked parameters makes, gathered where split."""
        if self.gathering is not None:
            parameters = nnx.State(self.gathering.whole_layer(nnx.to_pure_dict(parameters)))
        return nnx.merge(graph, parameters)

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits f32[..., V] of the head's input [..., D]."""
        return jax.lax.dot_general(
            x,
            self.whole(self.head_name).astype(x.dtype),
            (((x.ndim - 1,), (1 - self.vocab_axis,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    def hidden(self, tokens_BxT: jax.Array, stop_below: int = 0, tap: Tap = NO_TAP) -> jax.Array:
        """Computes the head's input: the last layer's output, normalised; [B, T, D].

        Right padding needs no mask, as attention is causal.

        Args:
          tokens_BxT: i32[B, T].
          stop_below: static; no gradient flows into the first `stop_below` layers or the
            embedding lookup, and the backward pass ends there.
          tap: sees the layers above `stop_below`, the final norm and, if nothing is stopped, the
            lookup.
        """
        x_BxTxD = self.whole("embedding")[tokens_BxT].astype(DTYPES[self.config.dtype])
        graph, stacked = nnx.split(self.layers)
        if stop_below:
            # By index, so that the lower layers' parameters are not copied; and without tangents,
            # so that this scan is never transposed.
            fixed = jax.lax.stop_gradient(stacked)

            def below(x: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
                parameters = jax.tree.map(lambda leaf: leaf[number], fixed)
                return self._layer(graph, parameters)(x, NO_TAP)[0], None

            x_BxTxD, _ = jax.lax.scan(below, x_BxTxD, jnp.arange(stop_below))
            x_BxTxD = jax.lax.stop_gradient(x_BxTxD)
            stacked = jax.tree.map(lambda leaf: leaf[stop_below:], stacked)
        else:
            x_BxTxD = tap.lookup("embedding", tokens_BxT, x_BxTxD)

        def layer(x: jax.Array, piece: Any) -> tuple[jax.Array, None]:
            return self._layer(graph, piece[0])(x, tap.layer(piece[1]))[0], None

        if self.config.remat != "none":
            layer = jax.checkpoint(layer, prevent_cse=False, policy=_SAVED[self.config.remat])
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

        x_BxTxD = self.whole("embedding")[tokens_BxT].astype(DTYPES[self.config.dtype])
        pieces = (stacked, jnp.arange(self.config.layers))
        (x_BxTxD, cache), _ = jax.lax.scan(layer, (x_BxTxD, cache), pieces)
        return self.norm(x_BxTxD, NO_TAP), cache


def _new(
    config: DecoderConfig, lora: LoRAConfig, gathering: Gathering | None, key: jax.Array
) -> Decoder:
    return Decoder(config, lora, gathering, rngs=nnx.Rngs(params=key))


@functools.cache
def _abstract(
    config: DecoderConfig, lora: LoRAConfig, gathering: Gathering | None
) -> tuple[Any, Any]:
    """A decoder's graph and the shapes of its state."""
    key = jax.eval_shape(jax.random.key, 0)
    return nnx.split(nnx.eval_shape(functools.partial(_new, config, lora, gathering), key))


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder as pure functions of its parameters, which are a nested dict of arrays.

    The NNX module is built and split once, before anything is traced; training steps carry the
    plain dict, and the functions merge it again.

    Attributes:
      config, lora: the decoder and its adapters.
      gathering: how devices split the parameters that the functions are given, inside a mapped
        function; None where every device has all of them.
      shapes: of the parameters that `init` draws, and their dtypes.
    """

    config: DecoderConfig
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    gathering: Gathering | None = None
    _graph: Any = dataclasses.field(init=False, repr=False, compare=False)
    shapes: dict[str, Any] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        graph, state = _abstract(self.config, self.lora, self.gathering)
        object.__setattr__(self, "_graph", graph)
        object.__setattr__(self, "shapes", nnx.to_pure_dict(state))

    def split(self, axis_name: str, devices: int) -> "Model":
        """The same model with parameters that so many devices of a mapped axis split."""
        gathering = Gathering.of(self.shapes, axis_name, devices)
        return dataclasses.replace(self, gathering=gathering)

    def _decoder(self, parameters: dict[str, Any]) -> Decoder:
        return nnx.merge(self._graph, nnx.State(parameters))

    @functools.partial(jax.jit, static_argnums=0)
    def init(self, key: jax.Array) -> dict[str, Any]:
        """Parameters as a nested dict, e.g. ["layers"]["attention"]["q"]["kernel"] f[L, in, out].

        Args:
          key: a `jax.random.key`; the same key gives the same parameters.
        """
        new = _new(self.config, self.lora, self.gathering, key)
        return nnx.to_pure_dict(nnx.split(new)[1])

    def apply(self, parameters: dict[str, Any], tokens_BxT: jax.Array) -> jax.Array:
        """Next-token logits f32[B, T, V] of tokens i32[B, T]."""
        decoder = self._decoder(parameters)
        return decoder.logits(decoder.hidden(tokens_BxT))

    def hidden(self, parameters: dict[str, Any], tokens_BxT: jax.Array) -> jax.Array:
        """The head's input f[B, T, D], of tokens i32[B, T]: logits are its products with `head`."""
        return self._decoder(parameters).hidden(tokens_BxT)

    def head(self, parameters: dict[str, Any]) -> jax.Array:
        """The head f[D, V], whole, in the decoder's dtype."""
        decoder = self._decoder(parameters)
        head = decoder.whole(decoder.head_name).astype(DTYPES[self.config.dtype])
        return head if decoder.vocab_axis else head.T

    def losses(
        self,
        parameters: dict[str, Any],
        tokens_BxT: jax.Array,
        response_BxT: jax.Array,
        stop_below: int = 0,
        tap: Tap = NO_TAP,
    ) -> jax.Array:
        """Mean cross-entropy of every example over its response tokens, f32[B].

        Only response tokens reach the head, and no [B, T, V] array is made. `response_BxT` is
        True at response tokens; see `Decoder.hidden` for the other arguments.
        """
        decoder = self._decoder(parameters)
        name, axis = decoder.head_name, decoder.vocab_axis
        x_BxTxD = decoder.hidden(tokens_BxT, stop_below, tap)[:, :-1]
        head, probe = decoder.whole(name), tap.probe(name, axis)
        targets, counted = tokens_BxT[:, 1:], response_BxT[:, 1:]
        nll = head_losses(
            x_BxTxD,
            head,
            targets,
            counted,
            vocab_axis=axis,
            chunks=self.config.chunks,
            probe=probe,
        )
        if probe is not None:
            nll, residual = nll
            nll = tap.head(name, axis, x_BxTxD, residual, nll)
        return nll.sum(axis=-1) / jnp.maximum(counted.sum(axis=-1), 1)

    def read(
        self,
        parameters: dict[str, Any],
        tokens_BxT: jax.Array,
        start_B: jax.Array,
        lengths_B: jax.Array,
        cache: Cache,
    ) -> tuple[jax.Array, Cache]:
        """Reads tokens behind those in the cache.

        Args:
          tokens_BxT: i32[B, T], new tokens, followed by padding.
          start_B: i32[B], each row's tokens that the cache holds already.
          lengths_B: i32[B], its new tokens, in 1 .. T.
          cache: from `Cache.empty`, or from a call before.

        Returns:
          Logits f32[B, V] of what follows each row's last token, and the cache.
        """
        decoder = self._decoder(parameters)
        positions_BxT = start_B[:, None] + jnp.arange(tokens_BxT.shape[1])[None, :]
        x_BxTxD, cache = decoder.read(tokens_BxT, positions_BxT, cache)
        last_BxD = jnp.take_along_axis(x_BxTxD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        return decoder.logits(last_BxD), cache
