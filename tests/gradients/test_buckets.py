"""Microbatches of short rows at narrower widths: the same results, at fewer columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax.gradients.microbatches import Buckets, map_microbatches, narrowed, needed

WIDTH = 8


def make_rows(lengths, seed=0):
    """Rows whose columns behind their length are NaN, so that reading one shows."""
    values = np.random.default_rng(seed).normal(size=(len(lengths), WIDTH)).astype(np.float32)
    inside = np.arange(WIDTH)[None] < np.asarray(lengths)[:, None]
    return {"x": jnp.asarray(values), "inside": jnp.asarray(inside), "n": jnp.arange(len(lengths))}


def summed(part):
    return jnp.where(part["inside"], part["x"], 0.0).sum(axis=1), part["n"]


@pytest.mark.parametrize(
    ("widths", "microbatch", "split"),
    [((WIDTH,), 3, 0), ((3, WIDTH), 1, 4), ((1, 2, 5, WIDTH), 3, 0), ((2, 5, WIDTH), 10, 5)],
)
@pytest.mark.parametrize("count", [1, 7])
def test_results_are_those_of_whole_rows_in_their_order(count, widths, microbatch, split):
    @jax.jit
    def run(rows, lengths):
        return map_microbatches(
            summed, rows, microbatch, buckets=Buckets(widths, lengths, min(split, count))
        )

    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(0, WIDTH + 1, count)
        rows = make_rows(lengths, seed)
        found = run(rows, jnp.asarray(lengths))
        for a, b in zip(found, summed(rows), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def seen_widths(lengths, widths, microbatch, span=None, split=0):
    """The widths that the function is really called at, in order, with the rows it got."""
    seen = []

    def function(part):
        columns = part["x"].shape[1]
        jax.debug.callback(lambda n: seen.append((columns, n.tolist())), part["n"], ordered=True)
        return part["n"]

    rows = make_rows(lengths)

    def run(rows, lengths, span):
        return map_microbatches(function, rows, microbatch, span, Buckets(widths, lengths, split))

    jax.jit(run)(rows, jnp.asarray(lengths), span)
    jax.effects_barrier()
    return seen


def test_every_microbatch_is_computed_at_the_narrowest_width_that_holds_its_rows():
    seen = seen_widths([8, 1, 2, 5, 2, 1], (2, 4, WIDTH), 2)
    assert seen == [(2, [1, 5]), (2, [2, 4]), (8, [3, 0])]
    assert seen_widths([3, 3], (2, 4, WIDTH), 2) == [(4, [0, 1])]
    assert seen_widths([0], (2, WIDTH), 4) == [(2, [0])]


def test_rows_before_and_behind_the_split_are_put_in_order_each_on_their_own():
    lengths = [5, 1, 3, 2, 8, 4]
    assert seen_widths(lengths, (2, 4, WIDTH), 3, (0, 3), 3) == [(8, [1, 2, 0])]
    assert seen_widths(lengths, (2, 4, WIDTH), 3, (3, 6), 3) == [(8, [3, 5, 4])]
    assert seen_widths(lengths, (2, 5, WIDTH), 1, (3, 6), 3) == [(2, [3]), (5, [5]), (8, [4])]
    assert seen_widths(lengths, (2, 5, WIDTH), 1, (6, 6), 3) == []


def test_choices_are_those_that_are_computed():
    lengths, widths = [8, 1, 2, 5, 2, 1, 7], (2, 5, WIDTH)
    for microbatch in (1, 2, 3, 10):
        buckets = Buckets(widths, jnp.asarray(lengths))
        size = min(microbatch, len(lengths))
        choices = [widths[choice] for choice in buckets.choices(size)]
        assert choices == [width for width, _ in seen_widths(lengths, widths, microbatch)]


def test_needed_microbatches_are_those_that_are_called():
    for span in ((0, 7), (4, 5), (3, 3), (6, 7)):
        first, last = needed(7, 3, tuple(map(jnp.int32, span)))
        calls = seen_widths([WIDTH] * 7, (WIDTH,), 3, span)
        assert int(last) - int(first) == len(calls)
    assert needed(7, 3, None) == (0, 3)


def test_what_has_no_columns_stays():
    part = narrowed({"x": jnp.ones((2, 8, 3)), "n": jnp.ones(2)}, 5)
    assert part["x"].shape == (2, 5, 3) and part["n"].shape == (2,)


@pytest.mark.parametrize("widths", [(), (0, 4), (4, 4), (5, 4)])
def test_widths_that_do_not_ascend_are_refused(widths):
    with pytest.raises(ValueError, match=r"ascending widths of at least 1, got \("):
        Buckets(widths, jnp.zeros(1, jnp.int32))
