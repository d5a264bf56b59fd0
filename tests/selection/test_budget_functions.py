"""Budgets given as a function of the counts of the candidates that can be picked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import selection

SIZE = 6
PROPORTIONAL = functools.partial(selection.budgets.proportional, size=SIZE)


@pytest.fixture(scope="module")
def problem():
    features = jax.random.normal(jax.random.key(0), (24, 5))
    # A domain of padding, one of candidates of whom the last is broken, and one without any.
    domains = jnp.array([-1] * 3 + [0] * 12 + [1] * 9)
    return selection.Problem(
        alignment=(features @ features[0]).at[23].set(jnp.nan),
        gram=features @ features.T,
        domains=domains,
        budgets=PROPORTIONAL,
        domain_count=3,
    )


@pytest.mark.parametrize("coupling", selection.COUPLINGS)
def test_a_function_gives_what_its_budgets_give(problem, coupling):
    found = selection.select(problem, size=SIZE, coupling=coupling)
    counts = jnp.array([12, 8, 0])
    assert found.budgets.tolist() == PROPORTIONAL(counts).tolist()
    given = dataclasses.replace(problem, budgets=PROPORTIONAL(counts))
    expected = selection.select(given, size=SIZE, coupling=coupling)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found.candidates.tolist() == [3 <= place < 23 for place in range(24)]


def test_the_number_of_domains_is_read_from_concrete_domains(problem):
    found = selection.select(dataclasses.replace(problem, domain_count=None), size=SIZE)
    assert found.budgets.tolist() == PROPORTIONAL(jnp.array([12, 8])).tolist()


def test_a_function_may_read_what_is_traced(problem):
    @jax.jit
    def run(shares, alignment):
        budgets = functools.partial(selection.budgets.fixed, size=SIZE, shares=shares)
        made = dataclasses.replace(problem, alignment=alignment, budgets=budgets)
        return selection.select(made, size=SIZE).budgets

    for shares, expected in (([1.0, 0.0, 0.0], [6, 0, 0]), ([0.5, 0.5, 0.0], [3, 3, 0])):
        assert run(jnp.array(shares), problem.alignment).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": lambda counts: counts[:2]}, r"budgets must be an array of shape \[3\]"),
        ({"budgets": lambda counts: counts / 2}, "budgets must be int32"),
        ({"budgets": jnp.array([3, 3])}, "domain_count must be 2 as budgets has 2 entries, got 3"),
        ({"domain_count": 1}, r"domains must lie in \[-1, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(problem, changes, message):
    with pytest.raises(ValueError, match=message):
        selection.select(dataclasses.replace(problem, **changes), size=SIZE)


def test_traced_domains_need_their_number(problem):
    def run(domains):
        made = dataclasses.replace(problem, domains=domains, domain_count=None)
        return selection.select(made, size=SIZE)

    with pytest.raises(ValueError, match="domain_count must be given where budgets are a function"):
        jax.jit(run)(problem.domains)
