"""Rows in microbatches: their order, what is skipped, and sizes that do not divide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax.gradients.microbatches import map_microbatches


def make_rows(count):
    return {"x": jnp.arange(2.0 * count).reshape(count, 2), "n": jnp.arange(count)}


def double(part):
    return 2 * part["x"], part["n"] + 1


@pytest.mark.parametrize("count", [1, 2, 7, 12])
@pytest.mark.parametrize("microbatch", [1, 3, 4, 100])
def test_results_are_those_of_all_rows_at_once_in_their_order(count, microbatch):
    rows = make_rows(count)
    found = jax.jit(lambda rows: map_microbatches(double, rows, microbatch))(rows)
    jax.tree.map(np.testing.assert_array_equal, found, double(rows))


def test_no_rows_give_no_results_of_the_right_shapes():
    x, n = map_microbatches(double, make_rows(0), 3)
    assert x.shape == (0, 2) and x.dtype == jnp.float32
    assert n.shape == (0,) and n.dtype == jnp.int32


def counted(rows, microbatch, span):
    """The rows that reach the function, in its calls' order, and the results."""
    seen = []

    def function(part):
        jax.debug.callback(lambda n: seen.append(n.tolist()), part["n"], ordered=True)
        return part["n"] + 1

    run = jax.jit(lambda rows, span: map_microbatches(function, rows, microbatch, span))
    found = run(rows, span)
    jax.effects_barrier()
    return seen, found.tolist()


@pytest.mark.parametrize(
    ("span", "calls"),
    [
        ((0, 7), [[0, 1, 2], [3, 4, 5], [6, 6, 6]]),
        ((4, 5), [[3, 4, 5]]),
        ((2, 4), [[0, 1, 2], [3, 4, 5]]),
        ((6, 7), [[6, 6, 6]]),
        ((3, 3), []),
        ((7, 7), []),
        ((5, 2), []),
    ],
)
def test_microbatches_without_a_needed_row_are_never_computed(span, calls):
    """The span is traced here, as it is in a training step."""
    seen, found = counted(make_rows(7), 3, span)
    assert seen == calls
    reached = {row for call in calls for row in call}
    assert found == [row + 1 if row in reached else 0 for row in range(7)]


def test_a_span_of_python_numbers_skips_too():
    found = map_microbatches(lambda part: part["n"] + 1, make_rows(6), 2, (2, 4))
    assert found.tolist() == [0, 0, 3, 4, 0, 0]


def test_the_last_microbatch_is_filled_with_rows_that_are_there():
    """A made-up row of zeros could be one that the function cannot take."""
    rows = make_rows(4)
    seen, _ = counted(rows, 3, (0, 4))
    assert seen[-1] == [3, 3, 3]


@pytest.mark.parametrize("microbatch", [0, -1])
def test_a_microbatch_below_one_is_refused(microbatch):
    with pytest.raises(ValueError, match=rf"microbatch must be at least 1, .*{microbatch}"):
        map_microbatches(double, make_rows(3), microbatch)
