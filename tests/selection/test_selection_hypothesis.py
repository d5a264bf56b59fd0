"""The contract and the definitions on problems that nobody thought of.

The search is the same in every run. To widen it, say by 50 times with a new seed in every run:

    SELECTION_SEARCH=50 pytest tests/selection/test_selection_hypothesis.py
"""

import os

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from selection_problems import (
    ANCHORS,
    CHOICES,
    DIM,
    DOMAINS,
    POOL,
    SIZE,
    Oracle,
    check_contract,
    solve,
)

from partitionsel_jax import selection

WIDER = int(os.environ.get("SELECTION_SEARCH", "0"))
# 2,000 in all; gradient matching has the most choices and the most that can go wrong.
EXAMPLES = {name: 150 for name in selection.UTILITIES} | {"gradient_matching": 500}

# Multiples of a quarter, so that sums are exact and ties are ties in any order of addition.
ENTRIES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.25])
BROKEN = st.sampled_from([np.nan, np.inf, -np.inf])
FIELDS = ["alignment", "losses", "norms", "reference_losses", "gram", "anchor_similarity"]
FIELDS += ["nuclear_norms", "novelty"]


def entries(*shape):
    return arrays.arrays(np.float32, shape, elements=ENTRIES, fill=st.nothing())


@st.composite
def problems(draw):
    """Pools with zeros, ties, duplicates, padding, broken entries and domains that fall short."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    features = rng.normal(size=(POOL, DIM)).astype(np.float32)
    anchors = rng.normal(size=(ANCHORS, DIM)).astype(np.float32)
    if draw(st.booleans()):
        # Coarse features, of which some dimensions are drawn and the others are zero.
        dim = draw(st.integers(1, DIM))
        features[:], anchors = 0.0, np.round(anchors)
        features[:, :dim] = draw(entries(POOL, dim))
    if draw(st.booleans()):
        features = features[rng.integers(0, draw(st.integers(1, POOL)), POOL)]
    scale = draw(st.sampled_from([1.0, 2.0**-10, 2.0**10]))
    features = features * np.float32(scale)
    scores = draw(entries(5, POOL)) if draw(st.booleans()) else rng.random((5, POOL))
    cuts = sorted(draw(st.tuples(*[st.integers(0, SIZE)] * (DOMAINS - 1))))
    problem = selection.Problem(
        alignment=features @ anchors.mean(axis=0),
        gram=features @ features.T,
        domains=rng.integers(draw(st.sampled_from([-1, 0])), DOMAINS, POOL).astype(np.int32),
        budgets=np.diff([0, *cuts, SIZE]).astype(np.int32),
        losses=np.float32(scores[0]),
        reference_losses=np.float32(scores[1]),
        norms=np.abs(np.float32(scores[2])),
        nuclear_norms=np.abs(np.float32(scores[3])),
        novelty=np.float32(scores[4]),
        anchor_similarity=features @ anchors.T,
    )
    for _ in range(draw(st.integers(0, 3))):
        array = getattr(problem, draw(st.sampled_from(FIELDS)))
        index = [draw(st.integers(0, length - 1)) for length in array.shape]
        value = draw(BROKEN)
        array[tuple(index)] = value
        if array is problem.gram:
            array[tuple(index[::-1])] = value
    if draw(st.integers(0, 9)) == 0:
        problem.anchor_similarity[:, draw(st.integers(0, ANCHORS - 1))] = draw(BROKEN)
    return problem


@pytest.mark.parametrize("utility", selection.UTILITIES)
def test_no_problem_violates_the_contract_or_the_definition_of(utility):
    choices = [choice for choice in CHOICES if choice[0] == utility]

    @hypothesis.settings(
        max_examples=EXAMPLES[utility] * max(WIDER, 1),
        derandomize=not WIDER,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(problems(), st.sampled_from(choices), st.integers(0, 2**16))
    def search(problem, choice, key):
        result = solve(problem, choice, key=key)
        picks = check_contract(problem, choice, result)
        # The oracle of a transport problem takes a second over a whole selection.
        if utility not in ("random", "full", "fair_transport") and choice[3] == "exact":
            assert Oracle(problem, *choice[:2]).regret(picks, choice[2]) <= 1e-4

    search()


def test_the_search_meets_padding_broken_entries_ties_and_short_domains():
    """A search over problems that are all alike would find nothing."""
    seen = {"padding": 0, "broken": 0, "ties": 0, "short": 0}

    @hypothesis.settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @hypothesis.given(problems())
    def look(problem):
        present = problem.domains >= 0
        held = np.bincount(problem.domains[present], minlength=DOMAINS)
        seen["padding"] += not present.all()
        seen["broken"] += not all(np.isfinite(getattr(problem, name)).all() for name in FIELDS)
        seen["ties"] += len(np.unique(problem.alignment)) < POOL
        seen["short"] += bool(np.any(held < problem.budgets))

    look()
    assert min(seen.values()) >= 5, seen
