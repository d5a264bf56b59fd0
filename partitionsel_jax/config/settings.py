"""A run's configuration as checked, frozen values: the edge where a ConfigDict is unpacked."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, cast

from partitionsel_jax import data, gradients, models, selection
from partitionsel_jax.config.checks import check_kinds
from partitionsel_jax.config.data_section import DataSettings
from partitionsel_jax.config.fields import field, needed
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
class TuneSettings:
    """Fields whose value every method chooses by validation loss, over seeds of their own."""

    seeds: tuple[int, ...] = field((), "Seeds of the trial runs, none of them a reported one.")
    grid: Mapping[str, Any] = field({}, "Fields that are chosen, and their values.")


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """How one configuration becomes several runs; read by `training.plan`."""

    repeats: int = field(1, "Runs with seeds seed, seed + 1, ...")
    methods: Mapping[str, Any] = field({}, "Label -> changed fields; several runs side by side.")
    axes: Mapping[str, Any] = field({}, "Field -> its values; a run for every combination.")
    tune: TuneSettings = field(TuneSettings, "Fields that every method chooses for itself.")


# Fields that say which runs come of a configuration, and are no setting of any of them.
OF_THE_PLAN = tuple(sorted(each.name for each in dataclasses.fields(PlanSettings)))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that one run is made of."""

    seed: int = needed(0, "Seed of the run, in 0 .. 2^31 - 1.", incidental=True)
    data: DataSettings = needed(DataSettings, "What a run learns from.")
    model: models.DecoderConfig = needed(
        models.DecoderConfig(
            vocab_size=264,  # 259 of the byte-level tokenizer, rounded up
            layers=4,
            width=96,
            mlp_width=256,
            heads=4,
            kv_heads=2,
            head_dim=24,
        ),
        "Shape and numerics of the decoder.",
    )
    lora: models.LoRAConfig = needed(models.LoRAConfig(targets=("q", "k", "v", "o")), "Adapters.")
    features: FeatureSettings = needed(
        FeatureSettings,
        "How gradients become features.",
        read_if=lambda config: selection.UTILITIES[config["selection"]["utility"]].gradients,
    )
    selection: SelectionSettings = needed(SelectionSettings, "What is selected.")
    optimizer: OptimizerSettings = needed(OptimizerSettings, "The update.")
    training: TrainingSettings = needed(TrainingSettings, "Length and devices.")
    evaluation: EvaluationSettings = needed(EvaluationSettings, "Scores.")
    checkpoint: str = field(
        "",
        "Pretrained model to start from, which decides the shape in model: path, preset or "
        '"owner/name"; "": random weights and the byte-level tokenizer.',
    )
    proxy: Mapping[str, Any] = field(
        {}, "Shape of selection.proxy: its sections model and lora.", noted=True
    )

    def __post_init__(self):
        for name, seed, bits in (
            ("seed", self.seed, 31),
            ("features.seed", self.features.seed, 32),
        ):
            if not 0 <= seed < 2**bits:
                raise ValueError(f"{name} must lie in 0 .. 2^{bits} - 1, not {seed}")
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
        if self.data.train_on == "anchors" and self.selection.needs_features:
            raise ValueError(
                f"selection.utility={self.selection.utility!r} compares candidates with anchors, "
                "and with data.train_on='anchors' they are the same rows: choose a utility without "
                "gradients, such as 'random'"
            )
        if (
            self.data.train_on == "rows"
            and self.data.train
            and self.selection.pool > self.data.train * domains
        ):
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
        if self.data.targets != self.data.names:
            for name, value, usable in (
                ("anchor_balance", True, False),
                ("anchor_mean", "balanced", "plain"),
                ("budgets", "curriculum", "anchors"),
            ):
                if getattr(self.selection, name) == value:
                    raise ValueError(
                        f"selection.{name}={value!r} needs anchors of every domain, and "
                        f"data.target_domains={self.data.target_domains} leaves some without: set "
                        f"it to {usable!r}"
                    )
        corrupts = self.data.noise.kind != "none" and self.data.train_on != "anchors"
        if self.selection.oracle and not corrupts:
            raise ValueError(
                "selection.oracle=True leaves out corrupted rows, and there are none with "
                f"data.noise.kind={self.data.noise.kind!r} and data.train_on="
                f"{self.data.train_on!r}: set it to False, or corrupt some"
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
        """Refuses what cannot be computed where a device has a part of each matrix only."""
        if self.model.remat == "none":
            raise ValueError(
                "training.split_weights=True with model.remat='none' would keep every layer that "
                "was gathered: set model.remat='layer' or 'dots'"
            )
        if self.lora.rank:
            return  # adapters stay whole, and all else is frozen
        features = self.features
        for name, value, usable in (
            ("path", features.path, "factored"),
            ("preconditioner", features.preconditioner, "none"),
            ("fidelity_every", features.fidelity_every, 0),
        ):
            if self.selection.needs_features and value != usable:
                raise ValueError(
                    f"features.{name}={value!r} needs whole gradients, and with "
                    f"training.split_weights=True no device has them: use {usable!r}, adapters "
                    "(lora.rank > 0), or whole weights"
                )

    def _check_features(self) -> None:
        model, lora = self.chooser
        features, adapted = self.features, lora.rank > 0
        if model.context and self.data.length > model.context:
            raise ValueError(
                f"data.length={self.data.length} exceeds the context of selection.proxy, "
                f"{model.context} tokens: use shorter rows, or another proxy"
            )
        if (
            features.preconditioner != "none"
            and self.selection.proxy
            and not (self.selection.proxy_trains)
        ):
            raise ValueError(
                f"features.preconditioner={features.preconditioner!r} follows the optimizer, and a "
                "proxy that does not train has none: set selection.proxy_trains=True, or 'none'"
            )
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
        if features.cache_rows and self.selection.needs_features:
            self._check_cache()
        if features.fidelity_every and features.fidelity_rows > self.selection.pool:
            raise ValueError(
                f"features.fidelity_rows={features.fidelity_rows} exceeds the "
                f"{self.selection.pool} candidates of selection.pool: compare fewer"
            )

    def _check_cache(self) -> None:
        """Refuses to keep features that would be others when they are used again."""
        features = self.features
        name = f"features.cache_rows={features.cache_rows}"
        if not self.selection.has_proxy or self.selection.proxy_trains:
            what = "trains" if self.selection.has_proxy else "is the model itself"
            raise ValueError(
                f"{name} keeps features over epochs, and they change with the model that selects, "
                f"which {what}: name a selection.proxy with selection.proxy_trains=False, or set "
                "it to 0"
            )
        if features.sketch_every:
            raise ValueError(
                f"{name} keeps features over epochs, and features.sketch_every="
                f"{features.sketch_every} changes their sketch: set one of them to 0"
            )
        if 4 * features.cache_rows * features.dim > MAX_FEATURE_BYTES:
            raise ValueError(
                f"{name} of dimension {features.dim} take "
                f"{4 * features.cache_rows * features.dim / 2**30:.1f} GiB on every device (at "
                f"most {MAX_FEATURE_BYTES / 2**30:.0f}): keep fewer, or choose a smaller dimension"
            )

    @property
    def filters(self) -> bool:
        """True if training rows are left out before the run; recorded selections have no pools."""
        return bool(self.data.filter.model) and not self.selection.recorded

    @functools.cached_property
    def chooser(self) -> tuple[models.DecoderConfig, models.LoRAConfig]:
        """Shape and adapters of the model that selects: the proxy, or the model itself."""
        if not self.selection.proxy:
            return self.model, self.lora
        if not self.proxy:
            raise ValueError(
                f"selection.proxy={self.selection.proxy!r} is not looked up: let training.expand "
                "fill in its shape"
            )
        return (
            build(models.DecoderConfig, self.proxy["model"], "proxy.model"),
            build(models.LoRAConfig, self.proxy["lora"], "proxy.lora"),
        )

    @property
    def scope(self) -> gradients.Scope:
        """The parameters whose gradients become features, of the model that selects."""
        return gradients.Scope(
            self.features.parameters, self.features.last_layers, self.chooser[0].layers
        )


def build(cls: type, section: Any, name: str) -> Any:
    """A settings dataclass from its section of the config; nested ones by their type.

    Raises:
      ValueError: as `check_kinds`, or what the dataclass refuses.
    """
    check_kinds(cls, section, name)
    values, hints = {}, typing.get_type_hints(cls)
    for key, value in section.items():
        if dataclasses.is_dataclass(hints[key]):
            value = build(cast(type, hints[key]), value, f"{name}.{key}" if name else key)
        values[key] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def parse(config: Mapping[str, Any]) -> Settings:
    """Checks a whole configuration and freezes it.

    Args:
      config: nested mappings, as `ConfigDict.to_dict()` gives them; `OF_THE_PLAN` is left aside.

    Raises:
      ValueError: an unknown or missing key, or a value out of its range, by name.
    """
    rest = {key: value for key, value in config.items() if key not in OF_THE_PLAN}
    return build(Settings, rest, "")
