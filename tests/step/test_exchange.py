"""What devices exchange of rows and anchors: the same, bit for bit, however many they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import gradients
from partitionsel_jax.distributed import spmd
from partitionsel_jax.step import anchors as held_out
from partitionsel_jax.step.candidates import RowInfo, deal
from tests.step.test_step import random_rows

ANCHORS, DIM, DOMAINS = 8, 37, 3
PLACES = np.array([5, 0, 15, 7, 7, 12, 1, 8], np.int32)


def on(devices, function, *rows):
    layout = spmd.Layout.first(devices, "shard_map")
    program = layout.map(function, ["rows"] * len(rows))
    return jax.device_get(program(*map(layout.rows, rows)))


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_picks_are_dealt_as_gathering_and_sharing_all_rows_would(devices):
    rows = random_rows(16, 1)
    dealt = on(
        devices,
        lambda pool: spmd.gather(deal(pool, spmd.gather(RowInfo.of(pool)), jnp.asarray(PLACES))),
        rows,
    )
    for found, expected in zip(dealt, rows, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected[PLACES])


def test_picks_that_the_devices_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="7 rows cannot be shared by 4 devices: use a multiple"):
        on(4, lambda rows: spmd.deal(rows, jnp.asarray(PLACES[:7])), random_rows(16, 1).tokens)


def test_a_tree_is_gathered_in_one_exchange_and_keeps_every_bit():
    tree = {
        "numbers": np.array([[np.nan, -0.0], [np.inf, 1e-45], [1, 2], [3, 4]], np.float32),
        "whole": np.array([-1, 2**31 - 1, 0, 5], np.int32),
        "flags": np.array([True, False, False, True]),
        "none": None,
    }
    found = on(2, spmd.gather, tree)
    for name in ("numbers", "whole", "flags"):
        assert found[name].dtype == tree[name].dtype
        assert found[name].tobytes() == tree[name].tobytes()
    layout = spmd.Layout.first(2, "shard_map")
    text = layout.map(spmd.gather, ["rows"]).lower(layout.rows(tree)).as_text()
    assert text.count("stablehlo.all_gather") == 1
    with pytest.raises(ValueError, match=r"expected leaves of 32 bits or bool .* got bfloat16"):
        on(2, lambda rows: spmd.gather((rows, rows.astype(jnp.bfloat16))), tree["numbers"])


def features(scale):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ANCHORS, DIM)) * scale
    vectors[3, 5] = np.nan
    losses = np.where(np.arange(ANCHORS) == 6, np.inf, rng.random(ANCHORS))
    columns = (vectors, losses, losses)
    return gradients.Features(*(column.astype(np.float32) for column in columns))


@pytest.mark.parametrize("mean", ["plain", "balanced"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_mean_of_anchors_does_not_depend_on_the_device_count(scale, mean):
    anchors, domains = features(scale), np.arange(ANCHORS, dtype=np.int32) % 2

    def summary(anchors, domains):
        facts = spmd.gather(held_out.AnchorStats.of(anchors, domains))
        return held_out.summarise(
            facts, anchors.vectors, mean=mean, domains=DOMAINS, axis_name=spmd.AXIS
        )

    one, *others = (on(devices, summary, anchors, domains) for devices in (1, 2, 4, 8))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, one)
    sound = np.arange(ANCHORS) != 3
    weights = sound / sound.sum()
    if mean == "balanced":
        weights = sound / np.bincount(domains, sound)[domains] / 2
    expected = weights[sound] @ anchors.vectors[sound].astype(np.float64)
    # Within what adding float32 up may be off by.
    largest = np.abs(anchors.vectors[sound]).max()
    np.testing.assert_allclose(one.direction, expected, rtol=3e-7, atol=2e-8 * largest)
    assert one.dropped == 1 and one.vectors is None
    counted = [anchors.losses[[0, 2, 4]].mean(), anchors.losses[[1, 5, 7]].mean(), np.nan]
    np.testing.assert_allclose(one.losses, counted, rtol=1e-6)
    whole = held_out.from_features(anchors, domains, mean=mean, domains=DOMAINS)
    np.testing.assert_array_equal(whole.direction, one.direction)
