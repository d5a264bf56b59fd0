"""A decoder as pure functions of its parameters."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from partitionsel_jax.models.cache import Cache
from partitionsel_jax.models.config import DecoderConfig
from partitionsel_jax.models.decoder import Decoder
from partitionsel_jax.models.lora import LoRAConfig
from partitionsel_jax.models.shards import Gathering
from partitionsel_jax.models.taps import NO_TAP, Tap


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder as pure functions of its parameters, which are a nested dict of arrays.

    The NNX module is split once here; training steps carry the plain dict, and `apply` merges it
    again inside the traced function.

    Attributes:
      config, lora: the decoder and its adapters.
      gathering: how devices split the parameters that the functions are given, inside a mapped
        function; None where every device has all of them.
    """

    config: DecoderConfig
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    gathering: Gathering | None = None

    def split(self, axis_name: str, devices: int) -> "Model":
        """The same model with parameters that so many devices of a mapped axis split."""
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        return dataclasses.replace(self, gathering=Gathering.of(shapes, axis_name, devices))

    @functools.cached_property
    def _graph(self) -> Any:
        return nnx.split(nnx.eval_shape(self._build, jax.random.key(0)))[0]

    def _build(self, key: jax.Array) -> Decoder:
        return Decoder(self.config, self.lora, self.gathering, rngs=nnx.Rngs(params=key))

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
        tap: Tap = NO_TAP,
    ) -> jax.Array:
        """Losses f32[B] of tokens i32[B, T] over their response tokens; see `Decoder.losses`."""
        return self._merge(parameters).losses(tokens_BxT, response_BxT, stop_below, tap)

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
        decoder = self._merge(parameters)
        positions_BxT = start_B[:, None] + jnp.arange(tokens_BxT.shape[1])[None, :]
        x_BxTxD, cache = decoder.read(tokens_BxT, positions_BxT, cache)
        last_BxD = jnp.take_along_axis(x_BxTxD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        return decoder.logits(last_BxD), cache
