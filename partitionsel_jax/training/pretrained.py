"""The pretrained checkpoint that a run may start from: its shape, its tokenizer, its weights."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partitionsel_jax import data, models
from partitionsel_jax.models import pretrained
from partitionsel_jax.step.state import fingerprint

if TYPE_CHECKING:
    from partitionsel_jax.config.settings import Settings


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
    # A path must mean the same from another directory, when the run goes on there.
    return {**config, "model": model, "checkpoint": str(pretrained.as_path(name) or name)}


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def check(settings: "Settings") -> None:
    """Makes sure that the checkpoint is here and fits the run; reads no weights.

    Raises:
      ValueError: as `Checkpoint.open` and its tokenizer, a shape that is not the run's, or a chat
        template that is not there.
    """
    data.check_template(settings.data.template, tokenizer(settings))


def tokenizer(settings: "Settings") -> data.Tokenizer:
    """The checkpoint's tokenizer, or the byte-level one."""
    return open_checkpoint(settings).tokenizer if settings.checkpoint else data.ByteTokenizer()


def weights(settings: "Settings") -> dict[str, Any] | None:
    """The checkpoint's parameters on the default device; None for a run from random ones."""
    if not settings.checkpoint:
        return None
    return open_checkpoint(settings).parameters(settings.model.param_dtype)


def origin(settings: "Settings", frozen: Any) -> dict[str, Any]:
    """What a run stands on beside its config: fingerprints of frozen weights and tokenizer."""
    return {
        "frozen weights": int(fingerprint(frozen)),
        "tokenizer and its chat template": tokenizer(settings).fingerprint,
    }


def open_checkpoint(settings: "Settings") -> pretrained.Checkpoint:
    """The run's checkpoint, once it is known to be the model that the run describes."""
    checkpoint = pretrained.Checkpoint.open(pretrained.locate(settings.checkpoint))
    for field in models.ARCHITECTURE:
        there, here = getattr(checkpoint.config, field), getattr(settings.model, field)
        if there != here:
            raise ValueError(
                f"{checkpoint.path} has {field}={there!r} where the run has {here!r}: it is not "
                f"the model that checkpoint={settings.checkpoint!r} stood for; fetch it again, or "
                "name it by its path in a new --workdir"
            )
    return checkpoint
