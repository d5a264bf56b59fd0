"""The sections of a run's configuration, each checked by itself."""

import dataclasses
import math

from partitionsel_jax import gradients, selection
from partitionsel_jax.config.checks import at_least, choice
from partitionsel_jax.distributed.spmd import check_form

WEIGHTS = ("uniform", "learned", "clipped")
ANCHOR_MEANS = ("plain", "balanced")
BUDGETS = ("proportional", "uniform", "fixed", "temperature", "curriculum")
SCHEDULES = ("linear", "constant")
FEATURE_PATHS = ("factored", "reference")
PRECONDITIONERS = ("none", "adam", "adam_factored")


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
        choice("features.parameters", self.parameters, gradients.scope.PARAMETERS)
        choice("features.family", self.family, gradients.FAMILIES)
        choice("features.path", self.path, FEATURE_PATHS)
        choice("features.preconditioner", self.preconditioner, PRECONDITIONERS)
        at_least("features", self, 1, "microbatch", "anchors_every")
        at_least("features", self, 0, "last_layers", "tokens", "sketch_every", "fidelity_every")
        at_least("features", self, 2, "fidelity_rows")
        if self.family == "identity":
            if self.dim:
                raise ValueError(
                    f"features.dim={self.dim}, but features.family='identity' keeps every "
                    "coordinate in scope: set features.dim=0"
                )
        else:
            at_least("features", self, 1, "dim")
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

    @property
    def unshared(self) -> "FeatureSettings":
        """The same, of a run that computes all features in every step."""
        return dataclasses.replace(self, anchors_every=1, sketch_every=0)


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

    `recorded` is the folder of a run whose recorded picks and weights are trained on: nothing is
    then selected, and the other fields say how the picks came about.
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
    recorded: str = ""

    def __post_init__(self):
        choice("selection.utility", self.utility, selection.UTILITIES)
        choice("selection.coupling", self.coupling, selection.COUPLINGS)
        choice("selection.rule", self.rule, selection.RULES)
        choice("selection.solver", self.solver, selection.SOLVERS)
        choice("selection.budgets", self.budgets, BUDGETS)
        choice("selection.anchor_mean", self.anchor_mean, ANCHOR_MEANS)
        choice("selection.weights", self.weights, WEIGHTS)
        at_least("selection", self, 1, "pool", "size", "anchors", "updates_per_pool")
        at_least("selection", self, 0, "swaps", "ridge")
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
        looks = self.recorded or self.needs_features or self.needs_losses
        if self.budgets == "curriculum" and not looks:
            raise ValueError(
                f"selection.budgets='curriculum' follows the anchors' losses, which "
                f"selection.utility={self.utility!r} never computes: choose other budgets, or a "
                "utility that looks at the rows"
            )
        if self.budgets == "fixed":
            if not self.shares:
                raise ValueError("selection.budgets='fixed' needs selection.shares, one per domain")
            if not (min(self.shares) >= 0 and abs(sum(self.shares) - 1) <= 1e-6):
                raise ValueError(
                    "selection.shares must be non-negative and sum to 1; "
                    f"{self.shares} sums to {sum(self.shares):g}"
                )

    @property
    def unshared(self) -> "SelectionSettings":
        """The same, of a run whose updates have a pool each."""
        return dataclasses.replace(self, updates_per_pool=1)

    @property
    def shares_pool(self) -> bool:
        """Whether several updates pick from one pool."""
        return self.updates_per_pool > 1 and not self.recorded

    @property
    def needs_features(self) -> bool:
        """Whether the utility reads gradients at all; the baselines that do not, skip them."""
        return selection.UTILITIES[self.utility].gradients and not self.recorded

    @property
    def needs_losses(self) -> bool:
        """Whether the utility reads losses alone, for which a forward pass is enough."""
        return not self.needs_features and "losses" in self.reads

    @property
    def compares_anchors(self) -> bool:
        """Whether the utility reads every anchor's feature, and not their mean alone."""
        return "anchor_similarity" in self.reads

    @property
    def reads(self) -> frozenset[str]:
        """The fields of `selection.Problem` that may be None and that the utility reads."""
        if self.recorded:
            return frozenset()
        utility = selection.UTILITIES[self.utility]
        return frozenset((*utility.needs, *utility.also_reads))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with clipping and a warm-up; see step/optimizer.py.

    Equal whatever their learning rates, as the updates that they compile to are.
    """

    learning_rate: float = dataclasses.field(compare=False)
    schedule: str = "linear"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self):
        choice("optimizer.schedule", self.schedule, SCHEDULES)
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
        at_least("optimizer", self, 0, "weight_decay")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How long, on how many devices (0: all), and what is kept.

    `microbatch` picks go through a backward pass of the update at once; 0: all that a device has.
    Beside the `keep_checkpoints` newest checkpoints, the `keep_best` of the lowest validation loss
    stay. `spmd` is how the step is mapped over devices, see `spmd.Layout`; with `split_weights`
    every device keeps a part of each matrix and of its optimizer state.
    """

    updates: int
    evaluate_every: int
    checkpoint_every: int
    keep_checkpoints: int = 2
    keep_best: int = 0
    devices: int = 0
    microbatch: int = 0
    spmd: str = "pmap"
    split_weights: bool = False

    def __post_init__(self):
        check_form(self.spmd, self.split_weights)
        at_least("training", self, 1, "updates", "evaluate_every", "checkpoint_every")
        at_least("training", self, 1, "keep_checkpoints")
        at_least("training", self, 0, "keep_best", "devices", "microbatch")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How runs are evaluated.

    `batch` rows go through a forward pass at once. With `test` False the test split is not looked
    at, as in runs that tune something. Every `answers_every` updates, and after the last, the model
    answers the validation questions; 0: never.
    """

    batch: int = 64
    test: bool = True
    answers_every: int = 0

    def __post_init__(self):
        at_least("evaluation", self, 1, "batch")
        at_least("evaluation", self, 0, "answers_every")
