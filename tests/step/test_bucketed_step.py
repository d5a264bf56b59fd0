"""A step whose short rows are computed at narrower widths does what the whole step does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import data, models
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step.step import Step

LENGTH, WIDTHS, DEVICES = 24, (12,), 2


def rows(count, seed):
    """Most are short; the padding is of random tokens, so that looking at it would show."""
    rng = np.random.default_rng(seed)
    ends = np.where(rng.random(count) < 0.8, rng.integers(3, 12, count), LENGTH)
    places = np.arange(LENGTH)[None]
    return data.Rows(
        tokens=rng.integers(3, 259, (count, LENGTH)).astype(np.int32),
        response=(places >= ends[:, None] // 2) & (places < ends[:, None]),
        domain=np.arange(count, dtype=np.int32) % 2,
        id=np.arange(count, dtype=np.int32),
        corrupted=np.zeros(count, bool),
    )


def computed(parts, size):
    """Tokens of microbatches of rows of these lengths: put in order, part by part."""
    ordered = [length for part in parts for length in sorted(part)]
    ordered += ordered[-1:] * (-len(ordered) % size)
    pieces = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return size * sum(min(w for w in (*WIDTHS, LENGTH) if w >= max(piece)) for piece in pieces)


def check_work(record, pool, anchors, microbatch, update_microbatch):
    """Tokens and padding by hand, of the rows of each device and of its share of the picks."""
    lengths = dict(zip(pool.id.tolist(), pool.lengths.tolist(), strict=True))
    picked = [lengths[i] for i in record["ids"].tolist()]
    total = 0
    for device in range(DEVICES):
        parts = [np.split(part.lengths, DEVICES)[device].tolist() for part in (pool, anchors)]
        total += computed(parts, microbatch)
        total += computed([np.split(np.array(picked), DEVICES)[device]], update_microbatch)
    assert int(record["tokens"]) == total
    real = int(pool.lengths.sum() + anchors.lengths.sum()) + sum(picked)
    assert float(record["padding"]) == pytest.approx(1 - real / total, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"features.anchors_every": 2, "training.microbatch": 2},
        {"features.path": "reference", "features.tokens": 14, "lora.rank": 2, "lora.dropout": 0.2},
        {"selection.utility": "loss", "selection.budgets": "curriculum"},
    ],
    ids=["factored", "reference", "losses"],
)
def test_picks_losses_and_parameters_are_those_of_whole_rows(tiny, options):
    tiny.data.length = LENGTH
    for dotted, value in options.items():
        section, field = dotted.split(".")
        tiny[section][field] = value
    whole = Step.create(run_settings.parse(tiny.to_dict()))
    states = []
    for step in (whole, dataclasses.replace(whole, widths=WIDTHS)):
        state, frozen = step.initial(1)
        program = spmd.Layout.first(DEVICES).map(step.__call__, step.KINDS[:5])
        records = []
        for t in range(3):
            pool, anchors = (spmd.shard(rows(*of), DEVICES) for of in ((16, t), (8, 10 + t // 2)))
            state, record = program(state, frozen, pool, anchors, jnp.int32(0))
            records.append(jax.device_get(record))
        states.append((state, records))
    (expected, plain), (found, bucketed) = states
    if "features.anchors_every" in options:
        check_work(bucketed[0], rows(16, 0), rows(8, 10), tiny.features.microbatch, 2)
    for before, after in zip(plain, bucketed, strict=True):
        assert before["ids"].tolist() == after["ids"].tolist()
        for name in ("loss", "gradient_norm", "pool_loss"):
            np.testing.assert_allclose(after[name], before[name], rtol=1e-5)
        assert after["tokens"] < before["tokens"]
        assert after["padding"] < before["padding"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        found.parameters,
        expected.parameters,
    )


def test_masks_of_dropout_do_not_depend_on_the_width():
    keys = jax.random.split(jax.random.key(0), 3)
    watch = models.taps.Dropping(0.5, keys, 1)
    x = jnp.ones((3, LENGTH, 5))
    np.testing.assert_array_equal(watch.drop(x)[:, :6], watch.drop(x[:, :6]))
