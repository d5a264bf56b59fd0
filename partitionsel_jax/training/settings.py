"""A run's configuration as checked, frozen values: the edge where a ConfigDict is unpacked."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import data, gradients, models, selection

WEIGHTS = ("uniform", "learned", "clipped")
ANCHOR_MEANS = ("plain", "balanced")
BUDGETS = ("proportional", "uniform", "fixed", "temperature", "curriculum")
SCHEDULES = ("linear", "constant")
FEATURE_PATHS = ("factored", "reference")
PRECONDITIONERS = ("none", "adam", "adam_factored")

# Features of a step's candidates and anchors, which every device holds.
MAX_FEATURE_BYTES = 8 << 30


def _choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {sorted(choices)}, not {value!r}{_near(value, choices)}"
        )


def _near(value: Any, choices) -> str:
    found = difflib.get_close_matches(str(value), list(choices), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _at_least(section: str, settings: Any, low: float, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) >= low:
            raise ValueError(
                f"{section}.{name} must be at least {low}, not {getattr(settings, name)}"
            )


@dataclasses.dataclass(frozen=True)
class SpoiltSettings:
    """Which share of the training answers is spoilt, and how (see data/spoilage.py)."""

    kind: str = "none"
    share: float = 0.0

    def __post_init__(self):
        _choice("data.spoilt.kind", self.kind, data.KINDS)
        if not 0 <= self.share < 1:
            raise ValueError(f"data.spoilt.share must lie in [0, 1), not {self.share}")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The reasoning-gym corpus: task name -> arguments, rows per task and split, tokens per row.

    `template` is how a question is put to the model (see data/templates.py).
    """

    tasks: Mapping[str, Mapping[str, Any]]
    train: int
    validation: int
    test: int
    length: int
    spoilt: SpoiltSettings
    template: str = "plain"
    seed: int = 0
    directory: str = ""

    def __post_init__(self):
        _choice("data.template", self.template, data.TEMPLATES)
        if not self.tasks:
            raise ValueError("data.tasks is empty: name at least one reasoning-gym task")
        _at_least("data", self, 1, "train", "test")
        _at_least("data", self, 2, "validation", "length")

    @property
    def task_list(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, arguments) of every domain, in order."""
        return [(name, dict(arguments)) for name, arguments in self.tasks.items()]


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """How an example's gradient becomes a feature vector (see gradients/).

    `parameters` and `last_layers` say what is differentiated; `path` how: "factored", out of one
    batched backward pass, or "reference", by vmap(grad). `family`, `dim` and `seed` make the
    sketch; `dim` is 0 for "identity", which keeps every coordinate. `preconditioner` puts the
    features into the geometry of Adam's steps: "adam" by its second moments, "adam_factored" by
    their rank-one approximation, which is all that the factored path can use.

    What makes features cheaper, at a price in fidelity: `tokens` (the window of a row that is
    looked at, 0 for all of it; the losses that go with features, in the log and in what reads them,
    are then those of the window), `anchors_every` (steps that share their anchors' features, taken
    at the parameters and moments of the first of them, or of the first that has moments); also
    `selection.updates_per_pool`. `sketch_every` is how many steps share a sketch, 0 for all.

    Every `fidelity_every` steps, 0 for never, the features of `fidelity_rows` candidates are
    compared with exact gradients, where the utility reads features at all.
    """

    parameters: str
    last_layers: int
    family: str
    dim: int
    normalize: bool
    microbatch: int
    seed: int = 0
    path: str = "factored"
    preconditioner: str = "none"
    tokens: int = 0
    anchors_every: int = 1
    sketch_every: int = 0
    fidelity_every: int = 0
    fidelity_rows: int = 32

    def __post_init__(self):
        _choice("features.parameters", self.parameters, gradients.scope.PARAMETERS)
        _choice("features.family", self.family, gradients.FAMILIES)
        _choice("features.path", self.path, FEATURE_PATHS)
        _choice("features.preconditioner", self.preconditioner, PRECONDITIONERS)
        _at_least("features", self, 1, "microbatch", "anchors_every")
        _at_least("features", self, 0, "last_layers", "tokens", "sketch_every", "fidelity_every")
        _at_least("features", self, 2, "fidelity_rows")
        if self.family == "identity":
            if self.dim:
                raise ValueError(
                    f"features.dim={self.dim}, but features.family='identity' keeps every "
                    "coordinate in scope: set features.dim=0"
                )
        else:
            _at_least("features", self, 1, "dim")
        if self.path == "factored" and self.family not in gradients.FACTORED:
            raise ValueError(
                f"features.path='factored' cannot serve features.family={self.family!r}: choose "
                f"from {list(gradients.FACTORED)}, or features.path='reference'"
            )
        if self.path == "factored" and self.preconditioner == "adam":
            raise ValueError(
                "features.preconditioner='adam' needs whole gradients: use 'adam_factored', or "
                "features.path='reference'"
            )
        if self.tokens == 1:
            raise ValueError("features.tokens=1 leaves nothing to predict: use at least 2, or 0")
        if self.sketch_every % self.anchors_every:
            raise ValueError(
                f"features.sketch_every={self.sketch_every} must be a multiple of "
                f"features.anchors_every={self.anchors_every}, so that candidates and anchors "
                "always share a sketch"
            )


@dataclasses.dataclass(frozen=True)
class CurriculumSettings:
    """How budgets="curriculum" follows the anchors' losses (see selection/curriculum.py)."""

    decay: float = 0.9
    blend: float = 0.5
    floor: float = 0.05
    sharpness: float = 1.0

    def __post_init__(self):
        section = "selection.curriculum"
        if not 0 <= self.decay < 1:
            raise ValueError(f"{section}.decay must lie in [0, 1), not {self.decay}")
        for name in ("blend", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{section}.{name} is a share in [0, 1], not {getattr(self, name)}"
                )
        if not 0 <= self.sharpness < float("inf"):
            raise ValueError(f"{section}.sharpness must be finite and >= 0, not {self.sharpness}")


@dataclasses.dataclass(frozen=True)
class SelectionSettings:
    """What is picked from every pool, and how the picks enter the update.

    `reference` is the folder of a finished run whose last parameters are the reference model of
    `reducible_loss`: one of the same model, trained on data that this run does not see.
    `anchor_balance` takes as many anchors from every domain; otherwise their mix is that of the
    validation rows, and `anchor_mean` "balanced" makes up for it. `updates_per_pool` updates in a
    row pick from the same pool, none of its rows twice, by features that are computed once.
    """

    pool: int
    size: int
    anchors: int
    utility: str
    coupling: str = "joint"
    rule: str = "greedy"
    solver: str = "exact"
    reference: str = ""
    budgets: str = "proportional"
    shares: tuple[float, ...] = ()
    temperature: float = 1.0
    curriculum: CurriculumSettings = CurriculumSettings()
    anchor_balance: bool = True
    anchor_mean: str = "plain"
    ridge: float = 0.0
    swaps: int = 0
    step_scale: float = 1.0
    weights: str = "uniform"
    weight_cap: float = 3.0
    updates_per_pool: int = 1

    def __post_init__(self):
        _choice("selection.utility", self.utility, selection.UTILITIES)
        _choice("selection.coupling", self.coupling, selection.COUPLINGS)
        _choice("selection.rule", self.rule, selection.RULES)
        _choice("selection.solver", self.solver, selection.SOLVERS)
        _choice("selection.budgets", self.budgets, BUDGETS)
        _choice("selection.anchor_mean", self.anchor_mean, ANCHOR_MEANS)
        _choice("selection.weights", self.weights, WEIGHTS)
        _at_least("selection", self, 1, "pool", "size", "anchors", "updates_per_pool")
        _at_least("selection", self, 0, "swaps", "ridge")
        if not self.step_scale > 0:
            raise ValueError(f"selection.step_scale must be > 0, not {self.step_scale}")
        if not 1 <= self.weight_cap < math.inf:
            raise ValueError(
                f"selection.weight_cap must be at least 1, the mean weight; got {self.weight_cap}"
            )
        if self.size > self.pool:
            raise ValueError(
                f"selection.size={self.size} picks cannot come from selection.pool={self.pool} "
                "candidates: enlarge the pool or select fewer"
            )
        if self.size * self.updates_per_pool > self.pool:
            raise ValueError(
                f"selection.updates_per_pool={self.updates_per_pool} updates of {self.size} picks "
                f"need more than the {self.pool} candidates of selection.pool: enlarge the pool, "
                "or share it between fewer updates"
            )
        if self.utility == "full" and self.size != self.pool:
            raise ValueError(
                f"selection.utility='full' trains on the whole pool: set selection.size="
                f"{self.pool} (it is {self.size}), or a pool of {self.size}"
            )
        try:
            selection.check_choices(
                utility=self.utility,
                coupling=self.coupling,
                rule=self.rule,
                solver=self.solver,
                swaps=self.swaps,
            )
        except ValueError as error:
            raise ValueError(f"config.selection: {error}") from None
        if "reference_losses" in self.reads and not self.reference:
            raise ValueError(
                f"selection.utility={self.utility!r} needs selection.reference: set it to the "
                "folder of a finished run of the same model"
            )
        if self.budgets == "curriculum" and not (self.needs_features or self.needs_losses):
            raise ValueError(
                f"selection.budgets='curriculum' follows the anchors' losses, which "
                f"selection.utility={self.utility!r} never computes: choose other budgets, or a "
                "utility that looks at the rows"
            )
        if self.budgets == "fixed":
            if not all(isinstance(share, int | float) for share in self.shares):
                raise ValueError(f"selection.shares must be numbers, not {self.shares!r}")
            if not self.shares:
                raise ValueError("selection.budgets='fixed' needs selection.shares, one per domain")
            if not (min(self.shares) >= 0 and abs(sum(self.shares) - 1) <= 1e-6):
                raise ValueError(
                    "selection.shares must be non-negative and sum to 1; "
                    f"{self.shares} sums to {sum(self.shares):g}"
                )

    @property
    def needs_features(self) -> bool:
        """Whether the utility reads gradients at all; the baselines that do not, skip them."""
        return selection.UTILITIES[self.utility].gradients

    @property
    def needs_losses(self) -> bool:
        """Whether the utility reads losses alone, for which a forward pass is enough."""
        return not self.needs_features and "losses" in self.reads

    @property
    def reads(self) -> frozenset[str]:
        """The fields of `selection.Problem` that may be None and that the utility reads."""
        utility = selection.UTILITIES[self.utility]
        return frozenset((*utility.needs, *utility.also_reads))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with clipping and a warm-up; see training/optimizer.py."""

    learning_rate: float
    schedule: str = "linear"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self):
        _choice("optimizer.schedule", self.schedule, SCHEDULES)
        if not self.learning_rate > 0:
            raise ValueError(f"optimizer.learning_rate must be > 0, not {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optimizer.warmup is a share in [0, 1), not {self.warmup}")
        if not self.clip > 0:
            raise ValueError(f"optimizer.clip must be > 0 (a norm), not {self.clip}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"optimizer.{name} is a decay in [0, 1), not {getattr(self, name)}"
                )
        _at_least("optimizer", self, 0, "weight_decay")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How long, on how many devices (0: all), and what is kept.

    `microbatch` picks go through a backward pass of the update at once; 0: all that a device has.
    """

    updates: int
    evaluate_every: int
    checkpoint_every: int
    keep_checkpoints: int = 2
    devices: int = 0
    microbatch: int = 0

    def __post_init__(self):
        _at_least("training", self, 1, "updates", "evaluate_every", "checkpoint_every")
        _at_least("training", self, 1, "keep_checkpoints")
        _at_least("training", self, 0, "devices", "microbatch")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Rows per forward pass of the evaluations."""

    batch: int = 64

    def __post_init__(self):
        _at_least("evaluation", self, 1, "batch")


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
        domains = len(self.data.tasks)
        shares = self.selection.shares
        if self.selection.budgets == "fixed" and len(shares) != domains:
            raise ValueError(
                f"selection.shares has {len(shares)} entries for {domains} domains; "
                f"give one share for each of {list(self.data.tasks)}"
            )
        floor = self.selection.curriculum.floor
        if self.selection.budgets == "curriculum" and floor * domains > 1:
            raise ValueError(
                f"selection.curriculum.floor={floor} for each of {domains} domains exceeds the "
                f"whole: set it to {1 / domains:g} at most"
            )
        if self.selection.pool > self.data.train * domains:
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


def _build(cls: type, section: Mapping[str, Any], name: str) -> Any:
    """A settings dataclass from its section of the config; nested ones by their type."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in section:
        if key not in fields:
            where = f" in config.{name}" if name else ""
            raise ValueError(
                f"unknown config key {key!r}{where}{_near(key, fields)}; known: {sorted(fields)}"
            )
    values = {}
    for key, field in fields.items():
        path = f"{name}.{key}" if name else key
        if key not in section:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"the config lacks {path}")
            continue
        value = section[key]
        if dataclasses.is_dataclass(hints[key]):
            value = _build(typing.cast(type, hints[key]), value, path)
        elif isinstance(value, list):
            value = tuple(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path} must be a finite number, not {value}")
        values[key] = value
    return cls(**values)


def parse(config: Mapping[str, Any]) -> Settings:
    """Checks a whole configuration and freezes it.

    Args:
      config: nested mappings, as `ConfigDict.to_dict()` gives them; `methods` and `repeats`, which
        say how one config becomes several runs, are `training.plan`'s and are left aside.

    Raises:
      ValueError: an unknown or missing key, or a value out of its range, by name.
    """
    rest = {key: value for key, value in config.items() if key not in ("methods", "repeats")}
    return _build(Settings, rest, "")
