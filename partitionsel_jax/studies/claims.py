"""The claims: for each its tables, and a verdict by 95 % intervals alone.

A section is a function of a study that yields verdicts and tables; its docstring is what RESULTS.md
says of it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from partitionsel_jax.studies import tables
from partitionsel_jax.studies.records import GUARD, Study
from partitionsel_jax.studies.tables import Difference, Group, difference, final, select
from partitionsel_jax.text_table import of_records

HOUSE, RANDOM, PRESET, FROZEN = "partitionsel", "random", "frugal", "frozen"
# Runs of the small model, which are there for others.
SMALL = ("small", "small-random")
_SHORT, _GUARDED = "frozen-short", "guarded"
# What the claims about small models that have one problem are put to the test at.
_SINGLE = {
    "proxy_targets": "clean, two domains of eight wanted",
    "proxy_rivals": "30 % garbled answers",
}
HELD, PARTLY, OPEN, FAILED = "held", "held in part", "inconclusive", "did not hold"
NOISE_NAMES = {"none": "clean", "garbled": "garbled answers", "swapped": "swapped answers"}
_LESS_RANDOM = "final validation loss less random's:"
# At most these shares of what random picks pay for their final loss.
_GOAL = {"updates": 0.4, "flops": 0.8, "seconds": 0.8}
# The same of a small model that selects for a large one; no interval may reach beyond the last.
_PROXY_GOAL, _PROXY_MOST = {"updates": 0.45, "flops": 0.55, "seconds": 0.55}, 0.8


class Verdict(NamedTuple):
    """A claim and who made it, whether it held, and the figures that say so."""

    claim: str
    outcome: str
    evidence: str


class Table(NamedTuple):
    """A table with its heading; where random picks were tried, the situation and its runs."""

    heading: str
    text: str
    situation: str = ""
    groups: Mapping[str, Group] = {}


Shown: TypeAlias = Iterator[Verdict | Table]


def outcome(signs: Sequence[int], wanted: int = -1) -> str:
    """From the signs of significant differences: all as wanted, some, none, or the other way."""
    right, wrong = signs.count(wanted), signs.count(-wanted)
    if signs and right == len(signs):
        return HELD
    if right > wrong or not wrong:
        return PARTLY if right else OPEN
    return FAILED


def _at_most(interval: tuple[float, float] | None, most: float) -> str:
    """Held where a whole interval lies below a bound."""
    if interval is None:
        return OPEN
    return HELD if interval[1] <= most else FAILED if interval[0] > most else OPEN


def _signs(found: Sequence[tuple[str, Difference | None]]) -> list[int]:
    return [one.sign if one else 0 for _, one in found]


def _verdict(
    claim: str,
    number: str,
    found: Sequence[tuple[str, Difference | None]],
    wanted: int = -1,
    form: str = "+.3f",
) -> Verdict:
    """A claim that differences of a number (in words), which may have names, have one sign."""
    listed = (f"{name} {tables.difference_text(d, form)}".strip() for name, d in found)
    return Verdict(claim, outcome(_signs(found), wanted), f"{number} {'; '.join(listed)}")


def by_method(runs: Group) -> dict[str, Group]:
    """The methods' runs; random's last, this method's first."""
    return {name: select(runs, name) for name in sorted(set(runs["method"]), key=_place)}


def _place(name: str) -> tuple[bool, bool, str]:
    return name == RANDOM, name != HOUSE, name


def _at(study: Study, axis: str) -> Iterator[tuple[Any, dict[str, Group]]]:
    """The values of an axis in order, and each method's runs there."""
    for value in sorted({value for value in study.results[axis] if value is not None}):
        yield value, by_method(select(study.results, **{axis.rpartition(".")[2]: value}))


def _of_pool(study: Study, size: int) -> str:
    return f"{100 * size / int(study.about['pool']):g} % of the pool"


def _methods(study: Study) -> Shown:
    """(a) PartitionSel and other ways to choose

    Clean data. `id` is `greats` per domain, `iwd` PartitionSel per domain, `gradmatch` PartitionSel
    without domains; `-rate` has the scale's usual learning rate for its step scale, as its authors
    do, the others 1. `full` trains on every candidate of every pool.
    """
    full = select(study.results, "full")
    logged, random, rivals = [], [], []
    for size, groups in _at(study, "selection.size"):
        where, house = f"{size} picks, {_of_pool(study, size)}", groups[HOUSE]
        random.append(("", final(house, groups[RANDOM])))
        picking = {name: group for name, group in groups.items() if name != RANDOM}
        rivals += [(f"{n} at {size}", final(house, g)) for n, g in picking.items() if n != HOUSE]
        beside = picking | ({"full": full} if len(full) else {}) | {RANDOM: groups[RANDOM]}
        situation = f"clean, {_of_pool(study, size)}"
        yield Table(where, tables.against(beside, RANDOM), situation, groups)
        table = tables.logged(picking, "conflicting_pairs", "redundancy")
        logged.append(Table(f"{where}: what is logged", table))
    yield from logged
    claim = "The paper: PartitionSel trains better than"
    yield _verdict(f"{claim} random picks", _LESS_RANDOM, random)
    signs, count = _signs(rivals), len(rivals)
    higher = [name for (name, _), sign in zip(rivals, signs, strict=True) if sign > 0]
    yield Verdict(
        f"{claim} GREATS, ID, IWD, CoLM and others",
        outcome(signs),
        f"of {count} comparisons it ended significantly lower in {signs.count(-1)}, significantly "
        f"higher in {len(higher)}{f' ({tables.joined(higher)})' if higher else ''}, and does not "
        f"differ significantly in {signs.count(0)}; were all methods equal, {0.05 * count:.1f} "
        "would differ significantly by chance",
    )


def _couplings(study: Study) -> Shown:
    """(b) Conflicting pairs

    Joint selection, each domain on its own, and domains ignored: how many pairs of picks have
    gradients with a negative product, and how alike picks are (mean cosine), averaged over all
    updates. Every method trains on its own picks.
    """
    claim = "The paper: joint selection picks fewer conflicting pairs (PartitionSel's utility)"
    owners = {"gradient_matching": "PartitionSel's utility", "taylor": "GREATS'"}
    for utility, owner in (owners | {"facility_location": "CoLM's"}).items():
        couplings = ("joint", "independent", "agnostic")
        groups = {name: select(study.results, utility=utility, coupling=name) for name in couplings}
        groups = {name: group for name, group in groups.items() if len(group)}
        if "joint" in groups:
            table = tables.logged(groups, "conflicting_pairs", "redundancy")
            yield Table(f"{owner} (`{utility}`)", table)
            pairs = {name: group["conflicting_pairs"] for name, group in groups.items()}
            joint = pairs.pop("joint")
            found = [(name, difference(joint, other)) for name, other in pairs.items()]
            said = claim if utility == "gradient_matching" else f"The same of `{utility}`"
            yield _verdict(said, "share of conflicting pairs less that of", found)


def _fractions(study: Study) -> Shown:
    """(c) Fractions of the pool

    Clean data; the learning rate is chosen at every fraction.
    """
    ends = []
    for size, groups in _at(study, "selection.size"):
        heading = f"{size} picks, {_of_pool(study, size)}"
        yield Table(heading, tables.against(groups, RANDOM))
        ends.append(("", final(groups[HOUSE], groups[RANDOM])))
    claim = "The paper: PartitionSel's advantage over random picks holds at every fraction"
    yield _verdict(claim, _LESS_RANDOM, ends)
    worse = _signs(ends).count(1)
    yield Verdict(
        "Ours: on clean data no worse than random picks at any fraction",
        FAILED if worse else HELD if outcome(_signs(ends)) == HELD else OPEN,
        f"significantly worse at {worse} of {len(ends)} fractions; its mean is higher at "
        f"{sum(d is not None and d.mean > 0 for _, d in ends)}",
    )


def _noise(study: Study) -> Shown:
    """(d) Corrupted answers

    Answers of the training rows are garbled (random characters) or swapped (the answer of another
    question of the domain); validation, anchors and test are clean. `loss` picks the highest
    losses.
    """
    clean = by_method(select(study.results, kind="none"))
    if RANDOM in clean:
        yield Table("Clean", tables.against(clean, RANDOM, corrupted=True), "clean", clean)
    for kind in ("garbled", "swapped"):
        ends = []
        for share, _ in _at(study, "data.noise.share"):
            groups = by_method(select(study.results, kind=kind, share=share))
            if RANDOM in groups:
                table = tables.against(groups, RANDOM, corrupted=True)
                heading = f"{100 * share:g} % {NOISE_NAMES[kind]}"
                yield Table(heading, table, heading, groups)
                ends.append((f"{100 * share:g} %:", final(groups[HOUSE], groups[RANDOM])))
        claim = f"Ours: with {NOISE_NAMES[kind]} PartitionSel ends lower than random picks"
        yield _verdict(claim, _LESS_RANDOM, ends)
    worst = by_method(select(study.results, kind="garbled", share=0.3))
    if HOUSE in worst and RANDOM in worst:
        costs = {name: tables.to_target(worst[HOUSE], worst[RANDOM], name) for name in _GOAL}
        # Without an interval, a median above the bound is enough to fail, and none to hold.
        spans = {name: c.interval or (c.median or math.inf, math.inf) for name, c in costs.items()}
        outcomes = [_at_most(spans[name], most) for name, most in _GOAL.items()]
        yield Verdict(
            "Ours, the goal: at 30 % garbled, random's final loss in 0.4 of the updates and 0.8 of "
            "the FLOPs and of the seconds, at the settings that (a) compares",
            next((one for one in (FAILED, OPEN) if one in outcomes), HELD),
            ", ".join(f"{name} {tables.ratio_text(cost)}" for name, cost in costs.items()),
        )


def _domains(study: Study) -> Shown:
    """(e) Imbalanced and shifted domains

    Validation rows and anchors are equally many of each domain, whatever the pool holds.
    """
    for weights, groups in _at(study, "data.weights"):
        if len(set(weights)) == 1:
            heading = "Domains equally frequent"
            yield Table(heading, tables.against(groups, RANDOM), heading.lower(), groups)
            continue
        table = tables.against(groups, RANDOM)
        yield Table(
            "Every domain half as frequent as the last", table, "imbalanced domains", groups
        )
        for name in ("uniform", "curriculum"):
            if f"{HOUSE}-{name}" in groups:
                end = [("", final(groups[f"{HOUSE}-{name}"], groups[HOUSE]))]
                claim = f"Ours: where the pool is imbalanced, {name} budgets end lower than "
                less = "final validation loss less theirs:"
                yield _verdict(f"{claim}proportional ones", less, end)
        yield _verdict(
            "The paper: budgets per domain help (against GradMatch, which has none)",
            "final validation loss less GradMatch's:",
            [("", final(groups[HOUSE], groups["gradmatch"]))],
        )


def _every_point(study: Study, baseline: str) -> str:
    """A table of every point of the ablation beside one of them."""
    named: dict[str, Group] = {}
    for method, runs in by_method(study.results).items():
        axes = [axis for axis in study.axes if runs[axis].notna().any()]
        for values in sorted(set(runs[axes].itertuples(index=False, name=None))):
            short = {axis.rpartition(".")[2]: v for axis, v in zip(axes, values, strict=True)}
            name = ", ".join((method, *(f"{axis} {value}" for axis, value in short.items())))
            named[name] = select(runs, **short)
    return tables.against(named, baseline, corrupted=True)


def _sketches(study: Study) -> Shown:
    """(f) Sketches

    Dimension and family of the sketch.
    """
    yield Table("", _every_point(study, "two_sided, dim 1024"))


def _layers(study: Study) -> Shown:
    """(g) Layers in scope

    Features from the last layers.
    """
    yield Table("", _every_point(study, RANDOM))


def _weights(study: Study) -> Shown:
    """(h) Weights in the update

    The weights that the selection finds, scaled to mean 1, against equal ones. Clipped ones are not
    compared: with 8 picks hardly any weight exceeds 3, the default cap, and in a pilot 4 of 5 seeds
    trained as with learned ones.
    """
    groups = {kind: select(study.results, weights=kind) for kind in ("uniform", "learned")}
    yield Table("", tables.against(groups, "uniform"))
    yield Table("What is logged", tables.logged(groups, "effective_sample_size"))
    yield _verdict(
        "Ours: the learned weights are worth using in the update",
        "final validation loss less that of equal weights:",
        [("learned", final(groups["learned"], groups["uniform"]))],
    )


def _rules(study: Study) -> Shown:
    """(i) Solvers

    Greedy picks, the paper's random greedy (Algorithm 2), and greedy picks followed by up to three
    sweeps of swaps. Utility and certificate are means over all updates of runs that each train on
    their own picks, so that they are not of the same problems.
    """
    groups = by_method(study.results)
    ours = {name: group for name, group in groups.items() if name != RANDOM}
    yield Table("", tables.against(groups, RANDOM))
    yield Table("What is logged", tables.logged(ours, "utility", "certificate"))
    reached, ends = (
        [
            (f"{one} less {other}:", difference(groups[one][number], groups[other][number]))
            for one, other in (("greedy", "residual-random"), ("swaps", "greedy"))
        ]
        for number in ("utility", "validation_loss")
    )
    claim = "Ours: greedy logs a higher mean utility over its run than random greedy, and swaps a "
    yield _verdict(f"{claim}higher one", "utility,", reached, wanted=1, form="+.4f")
    claim = "Ours: what logs the higher utility trains better"
    yield _verdict(claim, "final validation loss,", ends)


def _cost(study: Study) -> Shown:
    """(j) What selection costs, and how cheap it can be made

    30 % of the answers are garbled. At scale `bytes` the model is that of
    `configs/self_selection.py`, of 0.4M parameters, and short rows are computed at fewer tokens
    whatever the method. FLOPs and seconds are those of whole runs, relative to random picks of all
    updates.
    """
    groups = by_method(study.results)
    groups = {name: groups[name] for name in (PRESET, HOUSE) if name in groups} | groups
    yield Table("", tables.against(groups, RANDOM, corrupted=True, whole=True))
    if PRESET not in groups:
        return
    preset, random = groups[PRESET], groups[RANDOM]
    apart = final(preset, random)
    costs = {name: tables.whole_cost(preset, random, name) for name in _GOAL}
    within = all(costs[name] <= most + 1e-9 for name, most in _GOAL.items())
    listed = tables.joined([f"{tables.times(cost)} the {name}" for name, cost in costs.items()])
    yield Verdict(
        "Ours, the goal: at 30 % garbled, random's final loss in 0.4 of the updates, 0.8 of the "
        "FLOPs and of the seconds (`configs/frugal.py`, its learning rate chosen here)",
        _at_most((apart.low, apart.high) if apart else None, 0.0) if within else FAILED,
        f"{_LESS_RANDOM} {tables.difference_text(apart)}, with {listed}",
    )
    short = [("", final(preset, groups.get("random-short", preset[:0])))]
    claim = "Ours: it ends lower than random picks of as many updates"
    yield _verdict(claim, "final validation loss less theirs:", short)


def problems(study: Study) -> dict[str, dict[str, Group]]:
    """Problem -> the target's runs of each method, in a study of small models that select."""
    runs = study.results[~study.results["method"].isin(SMALL)]
    if study.claim in _SINGLE:
        return {_SINGLE[study.claim]: by_method(select(runs))}
    found = {}
    for kind, name in NOISE_NAMES.items():
        # Of clean rows no share is corrupted.
        of_kind = select(runs, kind=kind)
        shares = sorted({s for s in of_kind.get("data.noise.share", ()) if s is not None})
        for share in shares or [None] * bool(len(of_kind)):
            heading = name if share is None else f"{100 * share:g} % {name}"
            there = of_kind if share is None else select(runs, kind=kind, share=share)
            found[heading] = by_method(there)
    return found


def _choosers(study: Study) -> Shown:
    """Tables and verdicts that all studies of small models share."""
    cheaper, costs, clean = [], [], []
    for heading, groups in problems(study).items():
        short = {name: group for name, group in groups.items() if name.endswith("-short")}
        equal = {name: group for name, group in groups.items() if name not in short}
        table = tables.against(equal, RANDOM, corrupted=True, seconds=True)
        candidates = {name: group for name, group in equal.items() if name != "oracle"}
        size = "3.0M" if study.claim == "proxy_large" else "1.3M"
        yield Table(heading.capitalize(), table, f"{heading}, target of {size}", candidates)
        if short:
            short = {**short, RANDOM: groups[RANDOM]}
            table = tables.against(short, RANDOM, corrupted=True, whole=True)
            yield Table(f"{heading.capitalize()}: runs planned short", table)
        if FROZEN not in groups:
            continue
        if "garbled" in heading:
            cost = tables.to_target(groups[FROZEN], groups[RANDOM], "flops")
            low, high = cost.interval or (0.0, math.inf)
            cheaper.append(-1 if high < 1 else int(low > 1))
            costs.append(f"{heading} {tables.ratio_text(cost)}")
        elif heading == "clean":
            clean.append(("", final(groups[FROZEN], groups[RANDOM])))
    if costs:
        claim = "Ours: where answers are garbled, a small frozen model reaches random's final loss "
        text = f"FLOPs relative to random's, its training counted: {'; '.join(costs)}"
        yield Verdict(f"{claim}with fewer FLOPs", outcome(cheaper), text)
    if clean:
        claim = "Ours: on clean answers a small frozen model's selections end lower than random's"
        yield _verdict(claim, _LESS_RANDOM, clean)


def _proxy(study: Study) -> Shown:
    """(k) A small model selects for a larger one

    A target of 1.3M parameters. `partitionsel` selects for itself; `cotrained` trains on the
    selections that a model of 0.03M made for itself; for `frozen` the same model selects, trained
    before on random rows. `oracle` draws from the rows that are not corrupted. Whatever chose is
    paid for: the small model's training by every method that needs it.
    """
    yield from _choosers(study)
    for heading, groups in problems(study).items():
        if "garbled" in heading and _SHORT in groups:
            claim = f"Ours: at {heading}, 0.6 of the updates with a frozen small model end lower "
            short = [("", final(groups[_SHORT], groups[RANDOM]))]
            yield _verdict(f"{claim}than random picks of all", _LESS_RANDOM, short)


def _proxy_large(study: Study) -> Shown:
    """(l) A small model selects for a large one

    As (k), with a target of 3.0M parameters, a hundred times the small model's. `guarded` is
    `frozen` with a guard that judges whether it pays.
    """
    yield from _choosers(study)
    found = problems(study)
    for heading, groups in found.items():
        if "garbled" in heading and FROZEN in groups:
            costs = {n: tables.to_target(groups[FROZEN], groups[RANDOM], n) for n in _PROXY_GOAL}
            typical = {name: tables.typical(cost) for name, cost in costs.items()}
            within = all(
                (cost := typical[name]) is not None and cost <= most
                for name, most in _PROXY_GOAL.items()
            )
            ends = [cost.interval[1] if cost.interval else math.inf for cost in costs.values()]
            sure = max(ends) < _PROXY_MOST
            yield Verdict(
                f"Ours, the goal: at {heading}, random's final loss in 0.45 of the updates and "
                "0.55 of the FLOPs and of the seconds, the intervals below 0.8",
                HELD if within and sure else OPEN if within else FAILED,
                ", ".join(f"{name} {tables.ratio_text(cost)}" for name, cost in costs.items()),
            )

    said = []
    for heading, groups in found.items():
        if _GUARDED in groups and GUARD in groups[_GUARDED]:
            signs = list(groups[_GUARDED][GUARD])
            said.append(
                (heading, signs, all((sign > 0) == ("garbled" in heading) for sign in signs))
            )
    if said:
        yield Verdict(
            "Ours: the guard says that selection pays in every seed where answers are garbled, and "
            "in none elsewhere",
            HELD if all(right for *_, right in said) else FAILED,
            "; ".join(
                f"{heading}: pays {signs.count(1)}, cannot be told {signs.count(0)}, "
                f"does not pay {signs.count(-1)}"
                for heading, signs, _ in said
            ),
        )


def _proxy_targets(study: Study) -> Shown:
    """(m) A small model selects where the target is not the pool

    Clean answers of eight domains; anchors, validation and test rows are of two. Budgets are the
    anchors' shares of the domains; `random-pool` has the pool's. Methods as in (k).
    """
    yield from _choosers(study)
    for groups in problems(study).values():
        if "random-pool" in groups:
            claim = "Ours: off target, budgets that follow the anchors end lower with random picks"
            less = "final validation loss less that of budgets which follow the pool:"
            yield _verdict(claim, less, [("", final(groups[RANDOM], groups["random-pool"]))])
        if FROZEN in groups:
            claim = "Ours: off target, a small frozen model ends lower than random picks with the "
            yield _verdict(
                f"{claim}same budgets", _LESS_RANDOM, [("", final(groups[FROZEN], groups[RANDOM]))]
            )


def _proxy_rivals(study: Study) -> Shown:
    """(n) Simpler ways to use a small model, and to use the anchors

    As (k), at 30 % garbled answers. `frozen-loss` and `frozen-uds` select by a forward pass of the
    small model, `lowest-loss` by one of the target; `filtered` draws from the rows that the small
    model finds easiest, by one pass before the run; `anchors-too` has the anchors as training
    rows, `anchors-alone` nothing else.
    """
    yield from _choosers(study)
    for groups in problems(study).values():
        ends = [
            (f"{name}:", final(groups[FROZEN], group))
            for name, group in groups.items()
            if FROZEN in groups and name not in (FROZEN, RANDOM)
        ]
        claim = "Ours: a small frozen model's gradients train better than the simpler ways"
        yield _verdict(claim, "final validation loss less that of", ends)


# By the name of the claim's config, in the order of the page.
SECTIONS: Mapping[str, Callable[[Study], Shown]] = {
    **{"methods": _methods, "couplings": _couplings, "fractions": _fractions, "noise": _noise},
    **{"domains": _domains, "sketches": _sketches, "layers": _layers, "weights": _weights},
    **{"rules": _rules, "cost": _cost},
    **{"proxy": _proxy, "proxy_large": _proxy_large, "proxy_targets": _proxy_targets},
    "proxy_rivals": _proxy_rivals,
}
# Claims that have a config at the first scale alone.
AT_BYTES = ("proxy", "proxy_large", "proxy_targets", "proxy_rivals")


def shown(study: Study) -> tuple[list[Verdict], list[Table]]:
    """A study's verdicts, and its tables."""
    found = list(SECTIONS[study.claim](study))
    verdicts = [one for one in found if isinstance(one, Verdict)]
    return verdicts, [one for one in found if isinstance(one, Table)]


def choices(shown: Sequence[Table]) -> str:
    """A table of what to choose in every situation that some tables show; empty for none."""
    rows = []
    for table in shown:
        if not table.situation:
            continue
        groups = table.groups
        losses = {name: group["validation_loss"].mean() for name, group in groups.items()}
        best, *others = sorted(losses, key=lambda name: (losses[name], name))
        ends = {name: final(groups[best], groups[name]) for name in others}
        alike = ", ".join(name for name, one in ends.items() if one and not one.sign)
        costs = {
            name: tables.typical(tables.to_target(group, groups[RANDOM], "flops"))
            for name, group in groups.items()
        }
        cost, cheapest = min((cost, name) for name, cost in costs.items() if cost is not None)
        rows.append(
            {
                "situation": table.situation,
                "lowest loss at equal updates": best,
                "no significant difference from it": alike or tables.NOTHING,
                "fewest FLOPs to random's final loss": f"{cheapest} ({cost:.2f}×)"
                if cost < 1
                else RANDOM,
            }
        )
    return of_records(rows)
