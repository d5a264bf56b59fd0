"""What a study says of each claim: its tables, and whether the claim held."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from partitionsel_jax.reporting.comparison import ToTarget
from partitionsel_jax.results import measures, tables
from partitionsel_jax.results.measures import Difference
from partitionsel_jax.results.records import Result, Study

HOUSE, RANDOM = "partitionsel", "random"
_PRESET = "frugal"
_LOSS = measures.number("validation_loss")
SPOILT_NAMES = {"none": "clean", "garbled": "garbled answers", "swapped": "swapped answers"}
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


def _priced(cost: ToTarget, most: float) -> str:
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
    if study.claim == "spoilt":
        share = f"{100 * axes['share']:g} % " if "share" in axes else ""
        return f"{share}{SPOILT_NAMES[axes['kind']]}"
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
            Verdict(
                "The paper: PartitionSel trains better than random picks",
                _outcome([_sign(d) for d in against_random], -1),
                "final validation loss less random's: " + _listed(against_random),
            ),
            Verdict(
                "The paper: PartitionSel trains better than GREATS, ID, IWD, CoLM and others",
                _outcome(signs, -1),
                evidence,
            ),
        ),
        {**shown, **logged},
    )


def _sign(found: Difference | None) -> int:
    return found.sign if found else 0


def _listed(found: Sequence[Difference | None]) -> str:
    return "; ".join(tables.difference(one) for one in found)


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
        verdicts.append(
            Verdict(
                f"The paper: joint selection picks fewer conflicting pairs ({owner})"
                if utility == "gradient_matching"
                else f"The same of `{utility}`",
                _outcome([_sign(d) for d in found.values()], -1),
                "share of conflicting pairs less that of "
                + "; ".join(f"{name} {tables.difference(d)}" for name, d in found.items()),
            )
        )
    return Section(
        "(b) Conflicting pairs",
        "Joint selection, each domain on its own, and domains ignored: how many pairs of picks "
        "have gradients with a negative product, and how alike picks are (mean cosine), averaged "
        "over all updates. Every method trains on its own picks.",
        tuple(verdicts),
        shown,
    )


def _fractions(study: Study) -> Section:
    shown, signs = {}, []
    for size in _values(study, "selection.size"):
        groups = by_method(measures.select(study.results, size=size))
        shown[f"{size} picks, {_percent_of_pool(study, size)}"] = tables.against(groups, RANDOM)
        signs.append(measures.difference(groups[HOUSE], groups[RANDOM], _LOSS))
    worse = sum(_sign(d) > 0 for d in signs)
    higher = sum(d is not None and d.mean > 0 for d in signs)
    return Section(
        "(c) Fractions of the pool",
        "Clean data; the learning rate is chosen at every fraction.",
        (
            Verdict(
                "The paper: PartitionSel's advantage over random picks holds at every fraction",
                _outcome([_sign(d) for d in signs], -1),
                "final validation loss less random's: " + _listed(signs),
            ),
            Verdict(
                "Ours: on clean data no worse than random picks at any fraction",
                FAILED if worse else HELD if all(_sign(d) < 0 for d in signs) else OPEN,
                f"it is told to be worse at {worse} of {len(signs)} fractions, its mean is higher "
                f"at {higher}",
            ),
        ),
        shown,
    )


def _spoilt(study: Study) -> Section:
    shown, found = {}, {}
    shares: list[float] = _values(study, "data.spoilt.share")
    for kind, name in SPOILT_NAMES.items():
        for share in shares if kind != "none" else [0.0]:
            asked: dict[str, Any] = {"kind": kind} | ({"share": share} if share else {})
            groups = by_method(measures.select(study.results, **asked))
            if RANDOM not in groups:
                continue
            title = f"{100 * share:g} % {name}" if share else "Clean"
            shown[title] = tables.against(groups, RANDOM, spoilt=True)
            found[kind, share] = (
                measures.difference(groups[HOUSE], groups[RANDOM], _LOSS),
                {
                    currency: measures.to_target(groups[HOUSE], groups[RANDOM], currency)
                    for currency in _GOAL
                },
            )
    verdicts = []
    for kind in ("garbled", "swapped"):
        ends = {share: values[0] for (k, share), values in found.items() if k == kind}
        listed = (f"{100 * share:g} %: {tables.difference(d)}" for share, d in ends.items())
        verdicts.append(
            Verdict(
                f"Ours: with {SPOILT_NAMES[kind]} PartitionSel ends lower than random picks",
                _outcome([_sign(d) for d in ends.values()], -1),
                "final validation loss less random's: " + "; ".join(listed),
            )
        )
    if ("garbled", 0.3) in found:
        costs = found["garbled", 0.3][1]
        verdicts.append(
            Verdict(
                "Ours, the goal: at 30 % garbled, random's final loss in 0.4 of the updates and "
                "0.8 of the FLOPs and of the seconds, at the settings that (a) compares",
                _together([_priced(costs[name], most) for name, most in _GOAL.items()]),
                ", ".join(f"{name} {tables.ratio(cost)}" for name, cost in costs.items()),
            )
        )
    return Section(
        "(d) Spoilt answers",
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
        ends = {
            name: measures.difference(groups[f"{HOUSE}-{name}"], groups[HOUSE], _LOSS)
            for name in ("uniform", "curriculum")
            if f"{HOUSE}-{name}" in groups
        }
        if even:
            continue
        for name, end in ends.items():
            verdicts.append(
                Verdict(
                    f"Ours: where the pool is imbalanced, {name} budgets end lower than "
                    "proportional ones",
                    _outcome([_sign(end)], -1),
                    f"final validation loss less theirs: {tables.difference(end)}",
                )
            )
        verdicts.append(
            Verdict(
                "The paper: budgets per domain help (against GradMatch, which has none)",
                _outcome(
                    [_sign(measures.difference(groups[HOUSE], groups["gradmatch"], _LOSS))], -1
                ),
                "final validation loss less GradMatch's: "
                + tables.difference(measures.difference(groups[HOUSE], groups["gradmatch"], _LOSS)),
            )
        )
    return Section(
        "(e) Imbalanced and shifted domains",
        "Validation rows and anchors are equally many of each domain, whatever the pool holds.",
        tuple(verdicts),
        shown,
    )


def _weights(study: Study) -> Section:
    groups = {
        kind: measures.select(study.results, weights=kind)
        for kind in ("uniform", "learned", "clipped")
    }
    ends = {
        name: measures.difference(groups[name], groups["uniform"], _LOSS)
        for name in ("learned", "clipped")
    }
    return Section(
        "(h) Weights in the update",
        "The weights that the selection finds, scaled to mean 1, against equal ones; clipped at 3.",
        (
            Verdict(
                "Ours: the learned weights are worth using in the update",
                _outcome([_sign(d) for d in ends.values()], -1),
                "final validation loss less that of equal weights: "
                + "; ".join(f"{name} {tables.difference(d)}" for name, d in ends.items()),
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
    reached = {
        f"{name} less {other}": measures.difference(groups[name], groups[other], utility)
        for name, other in pairs
    }
    ends = {
        f"{name} less {other}": measures.difference(groups[name], groups[other], _LOSS)
        for name, other in pairs
    }
    return Section(
        "(i) Solvers",
        "Greedy picks, the paper's random greedy (Algorithm 2), and greedy picks followed by up to "
        "three sweeps of swaps. Utility and certificate are means over all updates of runs that "
        "each train on their own picks, so that they are not of the same problems.",
        (
            Verdict(
                "Ours: greedy logs a higher mean utility over its run than random greedy, and "
                "swaps a higher one",
                _outcome([_sign(d) for d in reached.values()], 1),
                "utility, "
                + "; ".join(
                    f"{name}: {tables.difference(d, '+.4f')}" for name, d in reached.items()
                ),
            ),
            Verdict(
                "Ours: what logs the higher utility trains better",
                _outcome([_sign(d) for d in ends.values()], -1),
                "final validation loss, "
                + "; ".join(f"{name}: {tables.difference(d)}" for name, d in ends.items()),
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
        return Section(title, about, (), {"": tables.against(named, baseline, spoilt=True)})

    return made


def _cost(study: Study) -> Section:
    groups = by_method(study.results)
    order = [name for name in groups if name not in (HOUSE, _PRESET, RANDOM)]
    shown = {name: groups[name] for name in (_PRESET, HOUSE, *order, RANDOM) if name in groups}
    verdicts = []
    if _PRESET in groups:
        preset, random = groups[_PRESET], groups[RANDOM]
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
                f"final validation loss less random's: {tables.difference(apart)}, with "
                + tables.joined(
                    [f"{tables.times(cost)} the {name}" for name, cost in costs.items()]
                ),
            ),
            Verdict(
                "Ours: it ends lower than random picks of as many updates",
                _outcome([_sign(lower)], -1),
                f"final validation loss less theirs: {tables.difference(lower)}",
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
    "spoilt": _spoilt,
    "domains": _domains,
    "sketches": _grouped(
        "(f) Sketches", "Dimension and family of the sketch.", "two_sided, dim 1024"
    ),
    "layers": _grouped("(g) Layers in scope", "Features from the last layers.", RANDOM),
    "weights": _weights,
    "rules": _rules,
    "cost": _cost,
}
