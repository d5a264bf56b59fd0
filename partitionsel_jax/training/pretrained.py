"""The pretrained checkpoint that a run may start from: its shape, its tokenizer, its weights."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partitionsel_jax import data, models
from partitionsel_jax.models import pretrained

if TYPE_CHECKING:
    from partitionsel_jax.training.settings import Settings


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the model's shape filled in from `config.checkpoint`.

    Raises:
      ValueError: a checkpoint that cannot be found or described, or a shape in `config.model` that
        is not the checkpoint's.
    """
    name = config.get("checkpoint", "")
    if not name:
        return dict(config)
    shape = dataclasses.asdict(pretrained.shape_of(name))
    model = dict(config["model"])
    for field in models.ARCHITECTURE:
        if field in model and _plain(model[field]) != _plain(shape[field]):
            raise ValueError(
                f"model.{field}={model[field]!r}, but the checkpoint {name!r} has "
                f"{_plain(shape[field])!r}: leave the shape out, as configs that start from a "
                "checkpoint do"
            )
        model[field] = _plain(shape[field])
    return {**config, "model": model}


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def check(settings: "Settings") -> None:
    """Makes sure that the checkpoint is here and fits the run; reads no weights.

    Raises:
      ValueError: as `Checkpoint.open` and its tokenizer, or a chat template that is not there.
    """
    if settings.checkpoint:
        _open(settings).tokenizer  # noqa: B018  (its own checks)
    data.check_template(settings.data.template, tokenizer(settings))


def _open(settings: "Settings") -> pretrained.Checkpoint:
    return pretrained.Checkpoint.open(pretrained.locate(settings.checkpoint))


def tokenizer(settings: "Settings") -> data.Tokenizer:
    """The checkpoint's tokenizer, or the byte-level one."""
    return _open(settings).tokenizer if settings.checkpoint else data.ByteTokenizer()


def weights(settings: "Settings") -> dict[str, Any] | None:
    """The checkpoint's parameters on the default device; None for a run from random ones."""
    if not settings.checkpoint:
        return None
    return _open(settings).parameters(settings.model.param_dtype)
