import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import hamilton

from partitionsel_jax.selection import budgets

MAKERS = {
    "proportional": budgets.proportional,
    "uniform": budgets.uniform,
    "fixed": lambda counts, size: budgets.fixed(counts, size, SHARES),
    "temperature": lambda counts, size: budgets.temperature(counts, size, 0.5),
}
SHARES = jnp.array([0.0, 0.5, 0.2, 0.0, 0.3])


def counts_rows(rows=400, domain_count=5):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 60, (rows, domain_count)) * (rng.random((rows, domain_count)) < 0.7)
    counts[:20] = 7
    return counts.astype(np.int32)


@pytest.mark.parametrize("size", [1, 90])
@pytest.mark.parametrize("name", MAKERS)
def test_budgets_sum_to_size_and_never_exceed_the_counts(name, size):
    counts = counts_rows()
    made = np.asarray(jax.jit(jax.vmap(lambda row: MAKERS[name](row, size)))(counts))
    assert made.dtype == np.int32
    assert np.all((made >= 0) & (made <= counts))
    np.testing.assert_array_equal(made.sum(axis=1), np.minimum(size, counts.sum(axis=1)))


@pytest.mark.parametrize("size", [7, 90])
def test_proportional_is_the_largest_remainder_method(size):
    counts = counts_rows()
    made = jax.jit(jax.vmap(lambda row: budgets.proportional(row, size)))(counts)
    np.testing.assert_array_equal(made, [hamilton(row, size) for row in counts])


def test_proportional_is_exact_where_products_exceed_32_bits():
    counts = np.array([300_000_000, 100_000_001, 99_999_999, 0], np.int32)
    made = budgets.proportional(counts, 123_457)
    np.testing.assert_array_equal(made, hamilton(counts, 123_457))


def test_ties_go_to_the_lowest_index():
    counts = jnp.array([10, 10, 10], jnp.int32)
    assert budgets.proportional(counts, 4).tolist() == [2, 1, 1]
    assert budgets.uniform(counts, 5).tolist() == [2, 2, 1]


def test_uniform_gives_what_small_domains_cannot_fill_to_the_others():
    assert budgets.uniform(jnp.array([1, 100, 100, 0]), 11).tolist() == [1, 5, 5, 0]


def test_fixed_follows_the_shares_of_any_sum():
    counts = jnp.array([100, 100, 100])
    assert budgets.fixed(counts, 10, [5.0, 3.0, 2.0]).tolist() == [5, 3, 2]
    assert budgets.fixed(counts, 10, [0.05, 0.03, 0.02]).tolist() == [5, 3, 2]


def test_domains_of_share_zero_take_slack_only_when_nobody_else_can():
    shares = [0.0, 1.0, 1.0]
    assert budgets.fixed(jnp.array([50, 4, 20]), 20, shares).tolist() == [0, 4, 16]
    assert budgets.fixed(jnp.array([50, 4, 20]), 30, shares).tolist() == [6, 4, 20]


def test_temperature_runs_from_uniform_to_proportional():
    counts = jnp.array([10, 40, 90])
    assert (
        budgets.temperature(counts, 14, 1.0).tolist() == budgets.proportional(counts, 14).tolist()
    )
    assert budgets.temperature(counts, 12, 0.0).tolist() == budgets.uniform(counts, 12).tolist()
    # Square roots are in the ratio 1 : 2 : 3.
    assert budgets.temperature(counts, 12, 0.5).tolist() == [2, 4, 6]


@pytest.mark.parametrize("name", MAKERS)
def test_a_pool_smaller_than_size_is_refused_when_concrete_and_taken_whole_when_traced(name):
    counts = jnp.array([3, 0, 2, 1, 1], jnp.int32)
    with pytest.raises(ValueError, match=r"at least size=9 .* sum 7; draw a larger pool"):
        MAKERS[name](counts, 9)
    assert jax.jit(lambda row: MAKERS[name](row, 9))(counts).tolist() == counts.tolist()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: budgets.uniform(jnp.array([1.0, 2.0]), 1), r"counts must be i32\[P\]"),
        (lambda: budgets.uniform(jnp.ones((2, 2), int), 1), r"counts must be i32\[P\]"),
        (lambda: budgets.uniform(jnp.array([-1, 4]), 1), "counts must be >= 0"),
        (lambda: budgets.proportional(jnp.array([4, 4]), 0), "size must be a Python integer >= 1"),
        (lambda: budgets.proportional(jnp.array([4, 4]), 2.5), "size must be a Python integer"),
        (lambda: budgets.fixed(jnp.array([4, 4]), 2, [1.0]), "shares must have shape"),
        (lambda: budgets.fixed(jnp.array([4, 4]), 2, [1.0, -1.0]), "shares must be finite"),
        (lambda: budgets.fixed(jnp.array([4, 4]), 2, [0.0, 0.0]), "not all 0"),
        (lambda: budgets.temperature(jnp.array([4, 4]), 2, np.nan), "tau must be a finite"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "scheme",
    [
        budgets.proportional,
        budgets.uniform,
        lambda counts, size: budgets.fixed(counts, size, jnp.array([0.5, 0.5, 0.0])),
        lambda counts, size: budgets.temperature(counts, size, 0.5),
        lambda counts, size: budgets.curriculum(counts, size, budgets.curriculum_start(3)),
    ],
)
def test_budgets_are_i32_with_64_bits_enabled_too(scheme):
    counts = np.array([5, 9, 2], np.int32)
    expected = scheme(jnp.asarray(counts), 8)
    with jax.enable_x64(True):
        found = scheme(jnp.asarray(counts), 8)
        jitted = jax.jit(lambda counts: scheme(counts, 8))(jnp.asarray(counts))
    assert found.dtype == jitted.dtype == jnp.int32
    assert found.tolist() == jitted.tolist() == expected.tolist()
