"""What a practitioner should choose: the best in every situation, and what is as good."""

from collections.abc import Iterator, Mapping

from partitionsel_jax.studies import claims, measures, tables
from partitionsel_jax.studies.claims import RANDOM
from partitionsel_jax.studies.records import Result, Study
from partitionsel_jax.text_table import markdown

# The claims whose methods are alternatives to each other.
_CLAIMS = ("methods", "noise", "domains")


def table(studies: Mapping[str, Study]) -> str:
    """A line for every situation that the studies have seen; empty where there is none."""
    rows = []
    final = measures.number("validation_loss")
    for situation, groups in _situations(studies):
        means = {name: measures.mean(group, final) for name, group in groups.items()}
        ranked = sorted((m.mean, name) for name, m in means.items() if m)
        best = ranked[0][1]
        level = [
            name
            for _, name in ranked[1:]
            if (found := measures.difference(groups[best], groups[name], final)) and not found.sign
        ]
        costs = {
            name: measures.typical(measures.to_target(group, groups[RANDOM], "flops"))
            for name, group in groups.items()
            if name != RANDOM
        }
        cheapest = min(((cost, name) for name, cost in costs.items() if cost), default=(1.0, ""))
        by_cost = f"{cheapest[1]} ({cheapest[0]:.2f}×)" if cheapest[0] < 1 else RANDOM
        rows.append((situation, best, ", ".join(level) or tables.NOTHING, by_cost))
    headings = (
        *("situation", "lowest loss at equal updates", "not told apart from it"),
        "fewest FLOPs to random's final loss",
    )
    return markdown(headings, rows) if rows else ""


def _situations(studies: Mapping[str, Study]) -> Iterator[tuple[str, dict[str, list[Result]]]]:
    """The points of the studies that random picks were tried at, and the runs of each."""
    for study in (studies[claim] for claim in _CLAIMS if claim in studies):
        points = {str(run.axes): run for run in study.results if run.axes}
        for example in sorted(points.values(), key=lambda run: tuple(run.axes.values())):
            groups = claims.by_method([r for r in study.results if r.axes == example.axes])
            if RANDOM in groups:
                yield claims.situation(study, example), groups
