"""The sections of a run's configuration but the data's, each checked by itself."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from partitionsel_jax import gradients, selection
from partitionsel_jax.config.fields import check, field, needed
from partitionsel_jax.selection.matroid import BUDGETED

FORMS = ("pmap", "shard_map")


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """How an example's gradient becomes a feature vector (see gradients/)."""

    parameters: str = needed(
        "full",
        "What is differentiated: all parameters, the adapters, or their second factors alone.",
        choices=gradients.PARAMETERS,
    )
    last_layers: int = needed(2, "Last layers that are differentiated; 0: all.", low=0)
    family: str = needed(
        "two_sided",
        "The sketch; identity keeps every coordinate.",
        choices=gradients.FAMILIES,
    )
    dim: int = needed(1024, "Dimension of the sketch; 0 for identity.")
    normalize: bool = needed(True, "Scale every feature to unit norm.")
    microbatch: int = needed(16, "Rows in one backward pass.", low=1)
    seed: int = field(0, "Seed of the sketch, in 0 .. 2^32 - 1.")
    path: str = field(
        "factored",
        "How features come about: out of one batched backward pass, or by vmap(grad).",
        choices=("factored", "reference"),
    )
    preconditioner: str = field(
        "none",
        "The geometry: plain; Adam's, by its second moments; or by their rank-one approximation, "
        "which is all that the factored path can use.",
        choices=("none", "adam", "adam_factored"),
    )
    tokens: int = field(
        0,
        "Window of a row that is looked at, 0: all. Losses that go with features are the window's.",
        low=0,
    )
    anchors_every: int = field(
        1,
        "Steps that share their anchors' features, taken at the first of them (with a "
        "preconditioner: at the first that has moments).",
        low=1,
    )
    sketch_every: int = field(0, "Steps that share a sketch; 0: all.", low=0)
    cache_rows: int = field(
        0,
        "Rows whose features are kept over epochs, for a selection.proxy that stays as it is: "
        "those that it holds are not computed again. Every row has one place, its id modulo this "
        "number; 0: none are kept.",
        low=0,
        later=True,
    )
    fidelity_every: int = field(
        0,
        "Steps between comparisons of features with exact gradients; 0: never.",
        low=0,
        incidental=True,
    )
    fidelity_rows: int = field(32, "Candidates that are compared.", low=2, incidental=True)

    def __post_init__(self):
        check(self, "features")
        if self.family == "identity":
            if self.dim:
                raise ValueError(
                    f"features.dim={self.dim}, but features.family='identity' keeps every "
                    "coordinate in scope: set features.dim=0"
                )
        elif self.dim < 1:
            raise ValueError(f"features.dim must be at least 1, not {self.dim}")
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
        return dataclasses.replace(self, anchors_every=1, sketch_every=0, cache_rows=0)


@dataclasses.dataclass(frozen=True)
class CurriculumSettings:
    """How budgets="curriculum" follows the anchors' losses (see selection/curriculum.py)."""

    decay: float = field(0.9, "Decay of the running mean of gains.", low=0, below=1)
    blend: float = field(0.5, "Weight against proportional budgets.", low=0, high=1)
    floor: float = field(0.05, "Smallest share of a domain.", low=0, high=1)
    sharpness: float = field(1.0, "How much the gains tilt the shares.", low=0)

    def __post_init__(self):
        check(self, "selection.curriculum")


def _utility(chosen: Mapping[str, Any]) -> Any:
    return selection.UTILITIES[chosen["utility"]]


def _reads_budgets(chosen: Mapping[str, Any], *schemes: str) -> bool:
    """True if a selection's coupling reads budgets, and they are of one of these schemes."""
    budgeted = chosen["coupling"] in BUDGETED or chosen["coupling"] not in selection.COUPLINGS
    return budgeted and (not schemes or chosen["budgets"] in schemes)


def _of(scheme: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda chosen: _reads_budgets(chosen, scheme)


def _reads_anchors(chosen: Mapping[str, Any]) -> bool:
    return _utility(chosen).gradients or _reads_budgets(chosen, "curriculum")


def _forwards(reads: Collection[str]) -> bool:
    """True if one of these fields of a problem takes a forward pass."""
    return not {"losses", "nuclear_norms"}.isdisjoint(reads)


def _refits(chosen: Mapping[str, Any]) -> bool:
    return _utility(chosen).refits  # all other weights are 1


@dataclasses.dataclass(frozen=True)
class SelectionSettings:
    """How examples are selected from every pool, and how they enter the update."""

    pool: int = needed(64, "Candidates of a step.", low=1)
    size: int = needed(8, "Candidates that are selected from them.", low=1)
    anchors: int = needed(32, "Anchors of a step.", low=1, read_if=_reads_anchors)
    utility: str = needed("gradient_matching", "What is maximised.", choices=selection.UTILITIES)
    coupling: str = field(
        "joint", "How domains share utility and budgets.", choices=selection.COUPLINGS
    )
    rule: str = field(
        "greedy", "Which candidate a round adds to the selection.", choices=selection.RULES
    )
    solver: str = field("exact", "How weights are refitted.", choices=selection.SOLVERS)
    reference: str = field(
        "",
        "Folder of a finished run, the reference model of reducible_loss: the same model, trained "
        "on data that this run does not see.",
        read_if=lambda chosen: "reference_losses" in _utility(chosen).also_reads,
    )
    budgets: str = field(
        "proportional",
        "Most examples that a domain may have; anchors: its share of all rows that are anchors.",
        choices=("proportional", "uniform", "fixed", "temperature", "curriculum", "anchors"),
        read_if=lambda chosen: _reads_budgets(chosen) and not _utility(chosen).takes_all,
    )
    shares: tuple[float, ...] = field(
        (), "Shares of fixed budgets, one a domain.", read_if=_of("fixed")
    )
    temperature: float = field(
        1.0, "Exponent of the counts in temperature budgets.", read_if=_of("temperature")
    )
    curriculum: CurriculumSettings = field(
        CurriculumSettings(), "How curriculum budgets follow losses.", read_if=_of("curriculum")
    )
    anchor_balance: bool = field(
        True,
        "As many anchors from every domain; otherwise in the mix of the validation rows.",
        read_if=_reads_anchors,
    )
    anchor_mean: str = field(
        "plain",
        "How anchors are averaged; balanced weighs every domain alike.",
        choices=("plain", "balanced"),
        read_if=lambda chosen: _utility(chosen).gradients,
    )
    ridge: float = field(0.0, "Ridge of the refit.", low=0, read_if=_refits)
    swaps: int = field(0, "Sweeps of improving exchanges.", low=0)
    certificate_every: int = field(
        1,
        "Updates between certificates, which say how far the selection may be from the best; 0: "
        "never.",
        low=0,
        read_if=_refits,
        incidental=True,
    )
    step_scale: float = field(
        1.0,
        "The step that taylor models.",
        above=0,
        read_if=lambda chosen: chosen["utility"] == "taylor",
    )
    weights: str = field(
        "uniform",
        "Weights in the update: 1, the selector's, or these up to a cap.",
        choices=("uniform", "learned", "clipped"),
        read_if=_refits,
    )
    weight_cap: float = field(
        3.0,
        "Largest clipped weight, the mean being 1.",
        low=1,
        read_if=lambda chosen: _refits(chosen) and chosen["weights"] == "clipped",
    )
    updates_per_pool: int = field(
        1,
        "Updates in a row that select from one pool, no row twice, by features computed once.",
        low=1,
    )
    proxy: str = field(
        "",
        "Another model that selects in this one's stead, a smaller one: folder of a finished run, "
        'or a pretrained model (path, preset or "owner/name"); "": the model itself.',
        read_if=lambda chosen: _utility(chosen).gradients or _forwards(_utility(chosen).needs),
        later=True,
    )
    proxy_trains: bool = field(
        False,
        "The proxy makes every update too, on the same rows; otherwise it stays as it is.",
        read_if=lambda chosen: bool(chosen["proxy"]),
        later=True,
    )
    proxy_learning_rate: float = field(
        0.0,
        "Peak of the learning rate of a proxy that trains; 0: the model's own.",
        low=0,
        read_if=lambda chosen: bool(chosen["proxy"] and chosen["proxy_trains"]),
        compare=False,
        later=True,
    )
    remembered: int = field(
        1024,
        "Rows selected last that uds keeps candidates away from; 0: none.",
        low=0,
        read_if=lambda chosen: "novelty" in _utility(chosen).also_reads,
        later=True,
    )
    diversity: float = field(
        1.0,
        "Weight of the mean distance from them in uds, the nuclear norm's being 1.",
        low=0,
        read_if=lambda chosen: "novelty" in _utility(chosen).also_reads and chosen["remembered"],
        later=True,
    )
    oracle: bool = field(
        False,
        "Never select a corrupted row, as only an oracle can: how far filtering could go.",
        later=True,
    )
    guard: bool = field(
        False,
        "Trains two copies of the proxy beside it, one on the selected rows and one on rows drawn "
        "at random, and says by their validation losses whether selection pays.",
        read_if=lambda chosen: bool(chosen["proxy"]),
        later=True,
    )
    recorded: str = field(
        "",
        "Folder of a run whose recorded selections and weights are trained on: nothing is then "
        "selected, and the other fields say how they came about.",
        once="picks",
    )

    def __post_init__(self):
        check(self, "selection")
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
        if self.remembers and self.size > self.remembered:
            raise ValueError(
                f"selection.remembered={self.remembered} rows cannot hold the {self.size} of one "
                "update, selection.size: remember more, or none (0)"
            )
        if self.proxy_trains and not self.proxy:
            raise ValueError("selection.proxy_trains=True needs a selection.proxy: name the model")
        if self.guard and self.oracle:
            raise ValueError(
                "selection.guard=True compares selected rows with random ones of the same pools, "
                "and selection.oracle=True takes the corrupted ones out of both: set one to False"
            )
        if self.guard and not self.proxy:
            raise ValueError(
                "selection.guard=True trains copies of a proxy: name one as selection.proxy"
            )
        if self.proxy and not (self.recorded or self.needs_features or self.needs_forward):
            raise ValueError(
                f"selection.proxy={self.proxy!r} would choose nothing, as selection.utility="
                f"{self.utility!r} looks at no model: leave selection.proxy empty"
            )
        names = ("utility", "coupling", "rule", "solver", "swaps")
        try:
            selection.check_choices(**{name: getattr(self, name) for name in names})
        except ValueError as error:
            raise ValueError(f"config.selection: {error}") from None
        if "reference_losses" in self.reads and not self.reference:
            raise ValueError(
                f"selection.utility={self.utility!r} needs selection.reference: set it to the "
                "folder of a finished run of the same model"
            )
        computes_losses = self.recorded or self.needs_features or self.needs_forward
        if self.budgets == "curriculum" and not computes_losses:
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
        """True if several updates select from one pool."""
        return self.updates_per_pool > 1 and not self.recorded

    @property
    def has_proxy(self) -> bool:
        """True if another model than the trained one is asked what to select."""
        return bool(self.proxy) and not self.recorded

    @property
    def trains_proxy(self) -> bool:
        """True if that model makes every update, too."""
        return self.has_proxy and self.proxy_trains

    @property
    def has_guard(self) -> bool:
        """True if copies of the proxy show what selection buys."""
        return self.has_proxy and self.guard

    @property
    def needs_features(self) -> bool:
        """True if the utility reads gradients at all; the baselines that do not, skip them."""
        return selection.UTILITIES[self.utility].gradients and not self.recorded

    @property
    def needs_forward(self) -> bool:
        """True if the utility reads losses or logits alone, for which a forward pass is enough."""
        return not self.needs_features and _forwards(self.reads)

    @property
    def remembers(self) -> bool:
        """True if candidates are compared with the rows selected last."""
        return "novelty" in self.reads and self.remembered > 0

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

    Equal whatever their learning rates, since the updates that they compile to are.
    """

    learning_rate: float = needed(2e-3, "Peak of the learning rate.", above=0, compare=False)
    schedule: str = field(
        "linear", "Learning rate after the warm-up.", choices=("linear", "constant")
    )
    warmup: float = field(0.03, "Share of the updates that warm up.", low=0, below=1)
    weight_decay: float = field(0.0, "Weight decay of AdamW.", low=0)
    clip: float = field(1.0, "Largest norm of the gradient.", above=0)
    b1: float = field(0.9, "Decay of the first moments.", low=0, below=1)
    b2: float = field(0.999, "Decay of the second moments.", low=0, below=1)

    def __post_init__(self):
        check(self, "optimizer")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How long a run is, on which devices, and what is kept of it."""

    updates: int = needed(240, "Length of the run.", low=1)
    evaluate_every: int = needed(20, "Updates between validation losses.", low=1)
    checkpoint_every: int = needed(40, "Updates between checkpoints.", low=1, incidental=True)
    keep_checkpoints: int = field(2, "Newest checkpoints that stay.", low=1, incidental=True)
    keep_best: int = field(
        0, "Checkpoints of lowest validation loss that stay.", low=0, incidental=True
    )
    devices: int = field(0, "How many devices; 0: all there are.", low=0, incidental=True)
    microbatch: int = field(
        0, "Selected rows in one backward pass of the update; 0: all of a device.", low=0
    )
    spmd: str = field(
        "pmap", "How the step is mapped over devices.", choices=FORMS, incidental=True
    )
    split_weights: bool = field(
        False,
        "Every device keeps a part of each matrix and of its optimizer state (shard_map alone).",
        incidental=True,
    )

    def __post_init__(self):
        check(self, "training")
        check_form(self.spmd, self.split_weights)


def check_form(form: str, split_weights: bool) -> None:
    """Raises ValueError for an unknown form, or weights to be split under pmap."""
    if form not in FORMS:
        raise ValueError(f"training.spmd must be one of {list(FORMS)}, not {form!r}")
    if split_weights and form != "shard_map":
        raise ValueError(
            f"training.split_weights=True needs training.spmd='shard_map', not {form!r}: under "
            "pmap every device has all the weights"
        )


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How runs are evaluated."""

    batch: int = field(64, "Rows in one forward pass.", low=1)
    test: bool = field(True, "Score the test split; False in runs that tune something.")
    answers_every: int = field(
        0,
        "Updates between answering the validation questions, also after the last; 0: never.",
        low=0,
        incidental=True,
    )

    def __post_init__(self):
        check(self, "evaluation")
