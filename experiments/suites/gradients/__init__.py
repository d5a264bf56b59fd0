"""Gradient features: what they cost, and how faithful they are."""

from collections.abc import Sequence
from typing import Any

from experiments.suites import passes
from experiments.suites.gradients import cost, fidelity, trained
from experiments.suites.measuring import Results

PARTS = ("cost", "fidelity")


def run(*, sizes: Sequence[str] | None, repeats: int, large: bool) -> Results:
    """Measures the parts of the suite.

    Args:
      sizes: some of `PARTS`; None for all.
      repeats: timed runs of each pass, >= 1; slow ones get fewer.
      large: also passes that hold a whole gradient per row.

    Returns:
      Tables, and the numbers of every part under its name.

    Raises:
      ValueError: sizes that are no parts.
    """
    chosen = parse(sizes)
    numbers: dict[str, Any] = {}
    drawn = []
    for part in chosen:
        if part == "cost":
            found = cost.run(passes.cost_shape(), repeats=repeats, large=large)
        else:
            found = fidelity.run(trained.fidelity_shape())
        numbers[part], text = found
        drawn.append(text)
    return Results(numbers, "\n\n".join(drawn))


def parse(sizes: Sequence[str] | None) -> tuple[str, ...]:
    """The parts to measure, each once, in the order of `PARTS`; ValueError for anything else."""
    if sizes is None:
        return PARTS
    named = {size.strip() for size in sizes}
    if not named or not named <= set(PARTS):
        raise ValueError(
            f"sizes of the gradients suite must be some of {list(PARTS)}, got {list(sizes)}; write "
            "e.g. --sizes=cost, or leave --sizes out."
        )
    return tuple(part for part in PARTS if part in named)
