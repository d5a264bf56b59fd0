"""What a study says of each claim: its tables, and whether the claim held."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from partitionsel_jax.reporting.comparison import ToTarget
from partitionsel_jax.studies import measures, tables
from partitionsel_jax.studies.measures import Difference
from partitionsel_jax.studies.records import Result, Study

HOUSE, RANDOM = "partitionsel", "random"
PRESET = "frugal"
_LOSS = measures.number("validation_loss")
_LESS_RANDOM = "final validation loss less random's:"
NOISE_NAMES = {"none": "clean", "garbled": "garbled answers", "swapped": "swapped answers"}
# Of what random picks pay for their final loss, at most.
_GOAL = {"updates": 0.4, "flops": 0.8, "seconds": 0.8}
HELD, PARTLY, OPEN, FAILED = "held", "held in part", "not decided", "did not hold"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim held.

    Attributes:
      claim: what was claimed, and by whom.
      outcome: `HELD`, `PARTLY`, `OPEN` or `FAILED`, by 95 % intervals alone: a bound is met where
        the whole interval meets it.
      evidence: the figures that say so.
    """

    claim: str
    outcome: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class Section:
    """What RESULTS.md has of a claim.

    Attributes:
      title: its heading.
      about: what was compared, a paragraph.
      verdicts: of the claims that it puts to the test.
      tables: heading -> table.
    """

    title: str
    about: str
    verdicts: tuple[Verdict, ...]
    tables: Mapping[str, str]


def section(study: Study) -> Section:
    """A study's section."""
    return SECTIONS[study.claim](study)


def _at_most(found: tuple[float, float] | None, most: float) -> str:
    """Whether an interval lies below a bound."""
    if found is None:
        return OPEN
    low, high = found
    return HELD if high <= most else FAILED if low > most else OPEN


def _costed(cost: ToTarget, most: float) -> str:
    """Whether a target was reached for at most so much of what the baseline paid."""
    if cost.interval is not None:
        return _at_most(cost.interval, most)
    return FAILED if cost.median is None or cost.median > most else OPEN


def _together(outcomes: Sequence[str]) -> str:
    """Of a claim that needs them all."""
    return FAILED if FAILED in outcomes else OPEN if OPEN in outcomes else HELD


def _outcome(signs: Sequence[int], wanted: int) -> str:
    """From the signs of decided differences: all as wanted, some, none, or the other way."""
    if not signs:
        return OPEN
    right, wrong = signs.count(wanted), signs.count(-wanted)
    if right == len(signs):
        return HELD
    if wrong:
        return PARTLY if right > wrong else FAILED
    return PARTLY if right else OPEN


def _sign(found: Difference | None) -> int:
    return found.sign if found else 0


def _verdict(
    claim: str,
    what: str,
    found: Iterable[tuple[str, Difference | None]],
    wanted: int = -1,
    form: str = "+.3f",
) -> Verdict:
    """A claim that differences have one sign.

    Args:
      claim: what was claimed.
      what: of what the differences are, in words.
      found: what each is called, where it needs a name, and the difference.
      wanted: the sign.
      form: of a number in the evidence.
    """
    named = list(found)
    listed = "; ".join(f"{name} {tables.difference(d, form)}".strip() for name, d in named)
    return Verdict(claim, _outcome([_sign(d) for _, d in named], wanted), f"{what} {listed}")


def by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The methods' runs; random's last, this method's first."""
    names = dict.fromkeys(result.method for result in results)
    order = sorted(names, key=lambda name: (name == RANDOM, name != HOUSE, name))
    return {name: measures.select(results, name) for name in order}


def situation(study: Study, example: Result) -> str:
    """The problem of a point, in words."""
    axes = {name.rpartition(".")[2]: value for name, value in example.axes.items()}
    if study.claim == "methods":
        return f"clean, {_percent_of_pool(study, axes['size'])}"
    if study.claim == "noise":
        share = f"{100 * axes['share']:g} % " if "share" in axes else ""
        return f"{share}{NOISE_NAMES[axes['kind']]}"
    even = len(set(axes["weights"])) == 1
    return "domains equally frequent" if even else "imbalanced domains"


def _percent_of_pool(study: Study, size: int) -> str:
    return f"{100 * size / int(study.about['pool']):g} % of the pool"


def _values(study: Study, axis: str) -> list:
    return sorted({r.axes[axis] for r in study.results if axis in r.axes})


def _methods(study: Study) -> Section:
    shown: dict[str, str] = {}
    logged: dict[str, str] = {}
    against_random: list[Difference | None] = []
    # Sign of the difference -> what this method was compared with.
    rivals: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    full = measures.select(study.results, "full")
    for size in _values(study, "selection.size"):
        groups = by_method(measures.select(study.results, size=size))
        where = f"{size} picks, {_percent_of_pool(study, size)}"
        columns = {"conflicting pairs": "conflicting_pairs", "redundancy": "redundancy"}
        picking = {name: group for name, group in groups.items() if name != RANDOM}
        logged[f"{where}: what is logged"] = tables.diagnostics(picking, columns)
        for name in (name for name in groups if name != HOUSE):
            found = measures.difference(groups[HOUSE], groups[name], _LOSS)
            if name == RANDOM:
                against_random.append(found)
            else:
                rivals[_sign(found)].append(f"{name} at {size}")
        if full:
            groups = {**picking, "full": full, RANDOM: groups[RANDOM]}
        shown[where] = tables.against(groups, RANDOM)
    evidence = (
        f"of {sum(map(len, rivals.values()))} comparisons it ended lower in {len(rivals[-1])}, "
        f"undecided in {len(rivals[0])}, higher in {len(rivals[1])}"
    )
    evidence += f" ({tables.joined(rivals[1])})" if rivals[1] else ""
    by_chance = 0.05 * sum(map(len, rivals.values()))
    evidence += f"; were all equal, {by_chance:.1f} would be decided by chance"
    signs = [sign for sign, names in rivals.items() for _ in names]
    return Section(
        "(a) PartitionSel and other ways to choose",
        "Clean data. `id` is `greats` per domain, `iwd` PartitionSel per domain, `gradmatch` "
        "PartitionSel without domains; `-rate` has the scale's usual learning rate for its step "
        "scale, as its authors do, the others 1. `full` trains on every candidate of every pool.",
        (
            _verdict(
                "The paper: PartitionSel trains better than random picks",
                _LESS_RANDOM,
                (("", found) for found in against_random),
            ),
            Verdict(
                "The paper: PartitionSel trains better than GREATS, ID, IWD, CoLM and others",
                _outcome(signs, -1),
                evidence,
            ),
        ),
        {**shown, **logged},
    )


def _couplings(study: Study) -> Section:
    shown, verdicts = {}, []
    names = {"gradient_matching": "PartitionSel's utility", "taylor": "GREATS'"}
    names["facility_location"] = "CoLM's"
    conflicts = measures.number("conflicting_pairs")
    for utility, owner in names.items():
        groups = {
            coupling: measures.select(study.results, utility=utility, coupling=coupling)
            for coupling in ("joint", "independent", "agnostic")
        }
        groups = {name: group for name, group in groups.items() if group}
        if "joint" not in groups:
            continue
        columns = {"conflicting pairs": "conflicting_pairs", "redundancy": "redundancy"}
        shown[f"{owner} (`{utility}`)"] = tables.diagnostics(groups, columns)
        found = {
            name: measures.difference(groups["joint"], group, conflicts)
            for name, group in groups.items()
            if name != "joint"
        }
        claim = f"The paper: joint selection picks fewer conflicting pairs ({owner})"
        if utility != "gradient_matching":
            claim = f"The same of `{utility}`"
        verdicts.append(_verdict(claim, "share of conflicting pairs less that of", found.items()))
    return Section(
        "(b) Conflicting pairs",
        "Joint selection, each domain on its own, and domains ignored: how many pairs of picks "
        "have gradients with a negative product, and how alike picks are (mean cosine), averaged "
        "over all updates. Every method trains on its own picks.",
        tuple(verdicts),
        shown,
    )


def _fractions(study: Study) -> Section:
    shown, ends = {}, []
    for size in _values(study, "selection.size"):
        groups = by_method(measures.select(study.results, size=size))
        shown[f"{size} picks, {_percent_of_pool(study, size)}"] = tables.against(groups, RANDOM)
        ends.append(measures.difference(groups[HOUSE], groups[RANDOM], _LOSS))
    worse = sum(_sign(d) > 0 for d in ends)
    higher = sum(d is not None and d.mean > 0 for d in ends)
    return Section(
        "(c) Fractions of the pool",
        "Clean data; the learning rate is chosen at every fraction.",
        (
            _verdict(
                "The paper: PartitionSel's advantage over random picks holds at every fraction",
                _LESS_RANDOM,
                (("", found) for found in ends),
            ),
            Verdict(
                "Ours: on clean data no worse than random picks at any fraction",
                FAILED if worse else HELD if all(_sign(d) < 0 for d in ends) else OPEN,
                f"it is told to be worse at {worse} of {len(ends)} fractions, its mean is higher "
                f"at {higher}",
            ),
        ),
        shown,
    )


def _noise(study: Study) -> Section:
    shown: dict[str, str] = {}
    ends: dict[str, dict[str, Difference | None]] = {"garbled": {}, "swapped": {}}
    shares: list[float] = _values(study, "data.noise.share")
    for kind, name in NOISE_NAMES.items():
        for share in shares if kind != "none" else [0.0]:
            asked: dict[str, Any] = {"kind": kind} | ({"share": share} if share else {})
            groups = by_method(measures.select(study.results, **asked))
            if RANDOM not in groups:
                continue
            title = f"{100 * share:g} % {name}" if share else "Clean"
            shown[title] = tables.against(groups, RANDOM, corrupted=True)
            if kind in ends:
                end = measures.difference(groups[HOUSE], groups[RANDOM], _LOSS)
                ends[kind][f"{100 * share:g} %:"] = end
    verdicts = [
        _verdict(
            f"Ours: with {NOISE_NAMES[kind]} PartitionSel ends lower than random picks",
            _LESS_RANDOM,
            found.items(),
        )
        for kind, found in ends.items()
    ]
    house, random = (
        measures.select(study.results, name, kind="garbled", share=0.3) for name in (HOUSE, RANDOM)
    )
    if house and random:
        costs = {name: measures.to_target(house, random, name) for name in _GOAL}
        verdicts.append(
            Verdict(
                "Ours, the goal: at 30 % garbled, random's final loss in 0.4 of the updates and "
                "0.8 of the FLOPs and of the seconds, at the settings that (a) compares",
                _together([_costed(costs[name], most) for name, most in _GOAL.items()]),
                ", ".join(f"{name} {tables.ratio(cost)}" for name, cost in costs.items()),
            )
        )
    return Section(
        "(d) Corrupted answers",
        "Answers of the training rows are garbled (random characters) or swapped (the answer of "
        "another question of the domain); validation, anchors and test are clean. `loss` picks "
        "the highest losses.",
        tuple(verdicts),
        shown,
    )


def _domains(study: Study) -> Section:
    shown, verdicts = {}, []
    for weights in _values(study, "data.weights"):
        even = len(set(weights)) == 1
        groups = by_method([r for r in study.results if r.axes["data.weights"] == weights])
        title = "Domains equally frequent" if even else "Every domain half as frequent as the last"
        shown[title] = tables.against(groups, RANDOM)
        if even:
            continue
        house = groups[HOUSE]
        for name in ("uniform", "curriculum"):
            if variant := groups.get(f"{HOUSE}-{name}"):
                end = measures.difference(variant, house, _LOSS)
                claim = f"Ours: where the pool is imbalanced, {name} budgets end lower than "
                less = "final validation loss less theirs:"
                verdicts.append(_verdict(f"{claim}proportional ones", less, [("", end)]))
        verdicts.append(
            _verdict(
                "The paper: budgets per domain help (against GradMatch, which has none)",
                "final validation loss less GradMatch's:",
                [("", measures.difference(house, groups["gradmatch"], _LOSS))],
            )
        )
    return Section(
        "(e) Imbalanced and shifted domains",
        "Validation rows and anchors are equally many of each domain, whatever the pool holds.",
        tuple(verdicts),
        shown,
    )


def _weights(study: Study) -> Section:
    groups = {kind: measures.select(study.results, weights=kind) for kind in ("uniform", "learned")}
    ends = {"learned": measures.difference(groups["learned"], groups["uniform"], _LOSS)}
    return Section(
        "(h) Weights in the update",
        "The weights that the selection finds, scaled to mean 1, against equal ones.",
        (
            _verdict(
                "Ours: the learned weights are worth using in the update",
                "final validation loss less that of equal weights:",
                ends.items(),
            ),
        ),
        {
            "": tables.against(groups, "uniform"),
            "What is logged": tables.diagnostics(
                groups, {"effective sample size": "effective_sample_size"}
            ),
        },
    )


def _rules(study: Study) -> Section:
    groups = by_method(study.results)
    utility = measures.number("utility")
    ours = {name: group for name, group in groups.items() if name != RANDOM}
    pairs = (("greedy", "residual-random"), ("swaps", "greedy"))
    reached, ends = (
        {
            f"{name} less {other}:": measures.difference(groups[name], groups[other], read)
            for name, other in pairs
        }
        for read in (utility, _LOSS)
    )
    return Section(
        "(i) Solvers",
        "Greedy picks, the paper's random greedy (Algorithm 2), and greedy picks followed by up to "
        "three sweeps of swaps. Utility and certificate are means over all updates of runs that "
        "each train on their own picks, so that they are not of the same problems.",
        (
            _verdict(
                "Ours: greedy logs a higher mean utility over its run than random greedy, and "
                "swaps a higher one",
                "utility,",
                reached.items(),
                wanted=1,
                form="+.4f",
            ),
            _verdict(
                "Ours: what logs the higher utility trains better",
                "final validation loss,",
                ends.items(),
            ),
        ),
        {
            "": tables.against(groups, RANDOM),
            "What is logged": tables.diagnostics(
                ours, {"utility": "utility", "certificate": "certificate"}
            ),
        },
    )


def _grouped(title: str, about: str, baseline: str) -> Callable[[Study], Section]:
    """A section that shows every point of the ablation beside one of them, without a verdict."""

    def made(study: Study) -> Section:
        named: dict[str, list[Result]] = {}
        for result in sorted(study.results, key=lambda run: (run.method, *run.axes.values())):
            values = (f"{name.rpartition('.')[2]} {value}" for name, value in result.axes.items())
            named.setdefault(", ".join((result.method, *values)), []).append(result)
        return Section(title, about, (), {"": tables.against(named, baseline, corrupted=True)})

    return made


def _cost(study: Study) -> Section:
    groups = by_method(study.results)
    order = [name for name in groups if name not in (HOUSE, PRESET, RANDOM)]
    shown = {name: groups[name] for name in (PRESET, HOUSE, *order, RANDOM) if name in groups}
    verdicts = []
    if PRESET in groups:
        preset, random = groups[PRESET], groups[RANDOM]
        apart = measures.difference(preset, random, _LOSS)
        costs = {name: measures.whole_cost(preset, random, name) for name in _GOAL}
        within = all(costs[name] <= most + 1e-9 for name, most in _GOAL.items())
        reached = _at_most((apart.low, apart.high) if apart else None, 0.0)
        lower = measures.difference(preset, groups.get("random-short", []), _LOSS)
        verdicts = [
            Verdict(
                "Ours, the goal: at 30 % garbled, random's final loss in 0.4 of the updates, 0.8 "
                "of the FLOPs and of the seconds (`configs/frugal.py`, its learning rate chosen "
                "here)",
                reached if within else FAILED,
                f"{_LESS_RANDOM} {tables.difference(apart)}, with "
                + tables.joined(
                    [f"{tables.times(cost)} the {name}" for name, cost in costs.items()]
                ),
            ),
            _verdict(
                "Ours: it ends lower than random picks of as many updates",
                "final validation loss less theirs:",
                [("", lower)],
            ),
        ]
    return Section(
        "(j) What selection costs, and how cheap it can be made",
        "30 % of the answers are garbled. At scale `bytes` the model is the quickstart's, of 0.4M "
        "parameters, and short rows are computed at fewer tokens whatever the method. FLOPs and "
        "seconds are those of whole runs, relative to random picks of all updates.",
        tuple(verdicts),
        {"": tables.whole_runs(shown, RANDOM)},
    )


SECTIONS: Mapping[str, Callable[[Study], Section]] = {
    "methods": _methods,
    "couplings": _couplings,
    "fractions": _fractions,
    "noise": _noise,
    "domains": _domains,
    "sketches": _grouped(
        "(f) Sketches", "Dimension and family of the sketch.", "two_sided, dim 1024"
    ),
    "layers": _grouped("(g) Layers in scope", "Features from the last layers.", RANDOM),
    "weights": _weights,
    "rules": _rules,
    "cost": _cost,
}
