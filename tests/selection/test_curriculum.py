"""The curriculum's budgets: what they promise of any losses, and the moving average behind them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from partitionsel_jax.selection import budgets

DOMAINS = 5
DECAY = 0.8


def counts_rows(rows=300):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 60, (rows, DOMAINS)) * (rng.random((rows, DOMAINS)) < 0.7)
    counts[0], counts[1], counts[2] = 0, 7, [3, 0, 0, 0, 0]
    return counts.astype(np.int32)


def random_losses(rows=300, steps=4):
    """f32[rows, steps, P], a fifth of them nan or infinite."""
    rng = np.random.default_rng(1)
    losses = rng.gamma(4.0, 0.5, (rows, steps, DOMAINS))
    losses[rng.random(losses.shape) < 0.15] = np.nan
    losses[rng.random(losses.shape) < 0.05] = np.inf
    losses[rng.random(losses.shape) < 0.05] = 0.0
    return losses.astype(np.float32)


def states(losses, decay=DECAY):
    """The state after f32[steps, P] losses; jittable."""
    state = budgets.curriculum_start(losses.shape[-1])
    for row in losses:
        state = budgets.curriculum_update(state, row, decay=decay)
    return state


def after(*losses):
    return states(jnp.asarray(losses, jnp.float32))


@pytest.mark.parametrize("size", [1, 37, 90])
@pytest.mark.parametrize(
    "options",
    [{}, {"blend": 1.0, "floor": 0.0, "sharpness": 100.0}, {"floor": 0.2}, {"blend": 0.0}],
    ids=str,
)
def test_they_sum_to_size_stay_within_the_counts_and_above_the_floor(size, options):
    counts = counts_rows()

    def make(row, losses):
        return budgets.curriculum(row, size, states(losses), **options)

    made = np.asarray(jax.jit(jax.vmap(make))(counts, random_losses()))
    assert made.dtype == np.int32
    assert np.all((made >= 0) & (made <= counts))
    np.testing.assert_array_equal(made.sum(axis=1), np.minimum(size, counts.sum(axis=1)))
    lowest = np.minimum(counts, int(options.get("floor", 0.05) * size + 1e-4))
    assert np.all(made >= lowest)


def test_they_are_proportional_before_a_gain_was_seen():
    counts = counts_rows()
    expected = jax.vmap(lambda row: budgets.proportional(row, 37))(counts)
    nan = np.nan
    for seen in (
        [],
        [[1.0, 2.0, 3.0, 4.0, 5.0]],
        [[1.0, nan, nan, 2.0, 1.0], [nan, 1.0, 1.0, nan, nan]],
    ):
        state = states(jnp.asarray(seen, jnp.float32).reshape(-1, DOMAINS))
        made = jax.vmap(lambda row, state=state: budgets.curriculum(row, 37, state))(counts)
        np.testing.assert_array_equal(made, expected)


def test_the_moving_average_is_that_of_the_relative_gains_seen_so_far():
    losses = random_losses()[0:20]
    for one in losses:
        state = states(jnp.asarray(one))
        for domain in range(DOMAINS):
            sound = [float(loss) for loss in one[:, domain] if np.isfinite(loss)]
            pairs = list(itertools.pairwise(sound))
            gains = [(old - new) / max(old, new) if max(old, new) else 0.0 for old, new in pairs]
            weights = [DECAY**age for age in range(len(gains))][::-1]
            expected = np.average(gains, weights=weights) if gains else 0.0
            np.testing.assert_allclose(state.gains[domain], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                state.weights[domain], 1 - DECAY ** len(gains), rtol=1e-5, atol=1e-6
            )
            np.testing.assert_equal(
                np.asarray(state.losses[domain]), np.float32(sound[-1] if sound else np.nan)
            )


def test_a_domain_without_a_sound_anchor_is_left_as_it_was():
    before = after([2.0, 3.0], [1.0, 2.5])
    for broken in (np.nan, np.inf):
        state = budgets.curriculum_update(before, jnp.array([broken, 2.0]), decay=DECAY)
        for field in ("losses", "gains", "weights"):
            assert getattr(state, field)[0] == getattr(before, field)[0]
            assert getattr(state, field)[1] != getattr(before, field)[1]


def test_the_domain_that_improves_least_has_no_fewer_picks_than_by_proportional():
    losses = random_losses()
    for size in (1, 7, 20, 33):
        counts = jnp.full((DOMAINS,), 20, jnp.int32)

        def make(row, size=size, counts=counts):
            state = states(row)
            return budgets.curriculum(counts, size, state), state.gains, state.weights

        made, gains, weights = (np.asarray(x) for x in jax.jit(jax.vmap(make))(losses))
        proportional = np.asarray(budgets.proportional(counts, size))
        # Where another domain improves as little, either may have the odd seat.
        ordered = np.sort(gains, axis=1)
        clear = (weights > 0).all(axis=1) & (ordered[:, 1] - ordered[:, 0] > 1e-4)
        least = np.argmin(gains, axis=1)
        assert clear.sum() > 50
        rows = np.arange(len(made))
        assert np.all((made[rows, least] >= proportional[least])[clear])


def test_shares_move_from_the_fast_domains_to_the_slow_ones():
    counts = jnp.array([40, 40, 40])
    state = after([2.0, 2.0, 2.0], [1.0, 1.9, 1.5])
    # Gains .5, .05, .25: shares e^-1, e^-.1, e^-.5 over their sum 1.879, blended with 1/3 by half.
    assert budgets.curriculum(counts, 30, state, blend=1.0, floor=0.0).tolist() == [6, 14, 10]
    assert budgets.curriculum(counts, 30, state, blend=0.5, floor=0.0).tolist() == [8, 12, 10]
    assert budgets.curriculum(counts, 30, state, blend=0.0, floor=0.0).tolist() == [10, 10, 10]
    # A loss that rises is the least gain of all.
    state = after([2.0, 2.0, 2.0], [1.0, 1.9, 2.5])
    made = budgets.curriculum(counts, 30, state, blend=1.0, floor=0.0)
    assert int(made[2]) == max(made.tolist()) > int(made[1]) > int(made[0])


def test_equal_gains_leave_the_proportional_shares():
    state = after([2.0, 4.0, 1.0], [1.0, 2.0, 0.5])
    counts = jnp.array([10, 20, 30])
    assert budgets.curriculum(counts, 12, state, blend=1.0).tolist() == [2, 4, 6]


def test_what_a_floor_takes_comes_from_the_others_in_proportion():
    state = after([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
    counts = jnp.array([2, 60, 30])
    assert budgets.curriculum(counts, 40, state, floor=0.05).tolist() == [2, 25, 13]
    # At most what the pool holds, and all of it for a floor of 1/P.
    assert budgets.curriculum(counts, 30, state, floor=1 / 3).tolist() == [2, 14, 14]


@pytest.mark.parametrize("scale", [2.0**-12, 1e-3, 7.0, 2.0**12])
def test_the_scale_of_the_losses_does_not_matter(scale):
    losses = random_losses(50)
    counts = jnp.array([30, 50, 20, 40, 9])

    @jax.jit
    @jax.vmap
    def make(row):
        return budgets.curriculum(counts, 41, states(row))

    np.testing.assert_array_equal(make(losses), make(np.float32(scale) * losses))


def test_a_domain_without_a_gain_yet_counts_as_an_average_one():
    state = after([1.0, 1.0, np.nan], [0.9, 0.5, 1.0])
    mean = float(np.mean(state.gains[:2]))
    known = budgets.CurriculumState(
        state.losses, state.gains.at[2].set(mean), jnp.ones_like(state.weights)
    )
    counts = jnp.array([50, 60, 70])
    made = [budgets.curriculum(counts, 60, each).tolist() for each in (state, known)]
    assert made[0] == made[1]


def test_one_domain_has_it_all():
    state = after([2.0], [1.0])
    assert budgets.curriculum(jnp.array([9]), 4, state, floor=1.0).tolist() == [4]
    assert budgets.curriculum(jnp.array([4]), 4, state).tolist() == [4]


def test_they_agree_eagerly_and_under_vmap_and_shard_map():
    counts = jnp.asarray(np.random.default_rng(0).integers(8, 40, (8, DOMAINS)), jnp.int32)
    losses = jnp.asarray(random_losses(8))

    def run(row, losses):
        return budgets.curriculum(row, 17, states(losses))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    sharded = jax.shard_map(
        jax.vmap(run), mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=True
    )
    # Replicated counts beside a state that differs from device to device, and the reverse.
    replicated = jax.shard_map(
        lambda rows, losses: run(rows[0], losses[0])[None],
        mesh=mesh,
        in_specs=(PartitionSpec(), spec),
        out_specs=spec,
        check_vma=True,
    )
    expected = np.stack([run(*each) for each in zip(counts, losses, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(run))(counts, losses), expected)
    np.testing.assert_array_equal(jax.jit(sharded)(counts, losses), expected)
    np.testing.assert_array_equal(
        jax.jit(replicated)(counts, losses), [run(counts[0], each) for each in losses]
    )


START = budgets.curriculum_start(2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: budgets.curriculum_start(0), "domain_count must be at least 1"),
        (
            lambda: budgets.curriculum_update(START, jnp.ones(3)),
            r"anchor_losses must have shape \(2,\)",
        ),
        (lambda: budgets.curriculum_update(START, jnp.array([1.0, -1.0])), "must be >= 0"),
        (
            lambda: budgets.curriculum_update(START, jnp.ones(2), decay=1.0),
            r"decay must be a finite scalar in \[0, 1\] without 1",
        ),
        (lambda: budgets.curriculum_update(START, jnp.ones(2), decay=np.nan), "decay must be"),
        (lambda: budgets.curriculum(jnp.array([4, 4, 4]), 2, START), "state must be of 3 domains"),
        (lambda: budgets.curriculum(jnp.array([4, 4]), 9, START), "at least size=9"),
        (lambda: budgets.curriculum(jnp.array([4, 4]), 2, START, blend=1.5), "blend must be"),
        (lambda: budgets.curriculum(jnp.array([4, 4]), 2, START, floor=-0.1), "floor must be a"),
        (
            lambda: budgets.curriculum(jnp.array([4, 4]), 2, START, floor=0.6),
            r"floor must be at most 1/P = 0\.5, got 0\.6",
        ),
        (
            lambda: budgets.curriculum(jnp.array([4, 4]), 2, START, sharpness=np.inf),
            "sharpness must be a finite scalar",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
