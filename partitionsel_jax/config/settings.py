"""A run's configuration as checked, frozen values: the edge where a ConfigDict is unpacked."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import data, gradients, models
from partitionsel_jax.config.checks import check_kinds
from partitionsel_jax.config.data_section import DataSettings
from partitionsel_jax.config.essentials import OF_THE_PLAN
from partitionsel_jax.config.sections import (
    EvaluationSettings,
    FeatureSettings,
    OptimizerSettings,
    SelectionSettings,
    TrainingSettings,
)

# Features of a step's candidates and anchors, which every device holds.
MAX_FEATURE_BYTES = 8 << 30


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that one run is made of.

    `checkpoint` is the pretrained model that it starts from (see `models.load`), and which decides
    the shape in `model`; empty for random weights and the byte-level tokenizer.
    """

    seed: int
    data: DataSettings
    model: models.DecoderConfig
    lora: models.LoRAConfig
    features: FeatureSettings
    selection: SelectionSettings
    optimizer: OptimizerSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    checkpoint: str = ""

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must lie in 0 .. 2^31 - 1, not {self.seed}")
        if not self.lora.rank and self.model.param_dtype != "float32":
            raise ValueError(
                f"model.param_dtype={self.model.param_dtype!r} cannot be trained itself, since its "
                "small updates would round away: use 'float32' (model.dtype may stay), or adapters"
            )
        if self.lora.rank > min(self.model.width, self.model.mlp_width):
            raise ValueError(
                f"lora.rank={self.lora.rank} exceeds the matrices of this model, of width "
                f"{self.model.width}: an adapter is to be thinner than what it adapts"
            )
        if self.evaluation.answers_every % self.training.evaluate_every:
            raise ValueError(
                f"evaluation.answers_every={self.evaluation.answers_every} must be a multiple of "
                f"training.evaluate_every={self.training.evaluate_every}, so that questions are "
                "answered where the validation loss is known"
            )
        domains = len(self.data.names)
        if not domains:
            raise ValueError(
                "data.domains is empty: name the domains of data.path in order, or let "
                "training.expand fill them in from the files"
            )
        shares = self.selection.shares
        if self.selection.budgets == "fixed" and len(shares) != domains:
            raise ValueError(
                f"selection.shares has {len(shares)} entries for {domains} domains; "
                f"give one share for each of {list(self.data.names)}"
            )
        floor = self.selection.curriculum.floor
        if self.selection.budgets == "curriculum" and floor * domains > 1:
            raise ValueError(
                f"selection.curriculum.floor={floor} for each of {domains} domains exceeds the "
                f"whole: set it to {1 / domains:g} at most"
            )
        if self.data.train and self.selection.pool > self.data.train * domains:
            raise ValueError(
                f"selection.pool={self.selection.pool} exceeds the training split of "
                f"{self.data.train * domains} rows: enlarge data.train or shrink the pool"
            )
        if self.selection.anchor_balance and self.selection.anchors % domains:
            raise ValueError(
                f"selection.anchors={self.selection.anchors} must be a multiple of the {domains} "
                "domains, so that every domain gives as many anchors; or set "
                "selection.anchor_balance=False"
            )
        if self.model.context and self.data.length > self.model.context:
            raise ValueError(
                f"data.length={self.data.length} exceeds the model's context of "
                f"{self.model.context} tokens: use shorter rows"
            )
        if not self.checkpoint and self.model.vocab_size < data.ByteTokenizer().vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} is smaller than the tokenizer's "
                f"{data.ByteTokenizer().vocab_size} ids: enlarge it"
            )
        self._check_features()
        if self.training.split_weights:
            self._check_split()

    def _check_split(self) -> None:
        """What cannot be computed where a device has a part of each matrix only."""
        if self.model.remat == "none":
            raise ValueError(
                "training.split_weights=True with model.remat='none' would keep every layer that "
                "was gathered: set model.remat='layer' or 'dots'"
            )
        if self.lora.rank:
            return  # adapters stay whole, and all else is frozen
        features = self.features
        for field, value, usable in (
            ("path", features.path, "factored"),
            ("preconditioner", features.preconditioner, "none"),
            ("fidelity_every", features.fidelity_every, 0),
        ):
            if self.selection.needs_features and value != usable:
                raise ValueError(
                    f"features.{field}={value!r} needs whole gradients, and with "
                    f"training.split_weights=True no device has them: use {usable!r}, adapters "
                    "(lora.rank > 0), or whole weights"
                )

    def _check_features(self) -> None:
        features, adapted = self.features, self.lora.rank > 0
        self.scope  # noqa: B018  (its own checks)
        if features.parameters != "full" and not adapted:
            raise ValueError(
                f"features.parameters={features.parameters!r} matches no parameter: this model has "
                "no adapters; set lora.rank > 0 or features.parameters='full'"
            )
        if features.preconditioner != "none" and features.parameters == "full" and adapted:
            raise ValueError(
                f"features.preconditioner={features.preconditioner!r} follows the optimizer, which "
                "knows the adapters alone: set features.parameters='lora'"
            )
        if not 0 <= features.seed < 2**32:
            raise ValueError(f"features.seed must lie in 0 .. 2^32 - 1, not {features.seed}")
        sketched = features.path == "factored" and features.family != "identity"
        if "norms" in self.selection.reads and sketched:
            raise ValueError(
                f"selection.utility={self.selection.utility!r} ranks by gradient norms, which "
                f"features.path='factored' with features.family={features.family!r} only "
                "estimates: set features.path='reference', or features.family='identity'"
            )
        if features.sketch_every % self.selection.updates_per_pool:
            raise ValueError(
                f"features.sketch_every={features.sketch_every} must be a multiple of "
                f"selection.updates_per_pool={self.selection.updates_per_pool}, so that candidates "
                "and anchors always share a sketch"
            )
        if features.tokens > self.data.length:
            raise ValueError(
                f"features.tokens={features.tokens} exceeds data.length={self.data.length}: "
                "use 0 for whole rows"
            )
        rows = self.selection.pool + self.selection.anchors
        if self.selection.needs_features and 4 * rows * features.dim > MAX_FEATURE_BYTES:
            raise ValueError(
                f"features.dim={features.dim} for {rows} candidates and anchors takes "
                f"{4 * rows * features.dim / 2**30:.1f} GiB on every device (at most "
                f"{MAX_FEATURE_BYTES / 2**30:.0f}): choose a smaller dimension"
            )
        if features.fidelity_every and features.fidelity_rows > self.selection.pool:
            raise ValueError(
                f"features.fidelity_rows={features.fidelity_rows} exceeds the "
                f"{self.selection.pool} candidates of selection.pool: compare fewer"
            )

    @property
    def scope(self) -> gradients.Scope:
        return gradients.Scope(
            self.features.parameters, self.features.last_layers, self.model.layers
        )


def build(cls: type, section: Any, name: str) -> Any:
    """A settings dataclass from its section of the config; nested ones by their type.

    Raises:
      ValueError: as `check_kinds`, or what the dataclass refuses.
    """
    check_kinds(cls, section, name)
    return _built(cls, section, name)


def _built(cls: type, section: Mapping[str, Any], name: str) -> Any:
    values, hints = {}, typing.get_type_hints(cls)
    for key, value in section.items():
        if dataclasses.is_dataclass(hints[key]):
            value = _built(typing.cast(type, hints[key]), value, f"{name}.{key}" if name else key)
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return cls(**values)


def parse(config: Mapping[str, Any]) -> Settings:
    """Checks a whole configuration and freezes it.

    Args:
      config: nested mappings, as `ConfigDict.to_dict()` gives them; what says how one config
        becomes several runs (`OF_THE_PLAN`) is `training.plan`'s and is left aside.

    Raises:
      ValueError: an unknown or missing key, or a value out of its range, by name.
    """
    rest = {key: value for key, value in config.items() if key not in OF_THE_PLAN}
    return build(Settings, rest, "")
