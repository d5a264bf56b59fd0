"""Utility-Diversity Sampling: nuclear norms of logits, and a memory of what was selected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from partitionsel_jax import models, sweeps, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.two_sided import Side
from partitionsel_jax.planning import predictions
from partitionsel_jax.step import costs, features
from partitionsel_jax.step.logit_scores import (
    COLUMNS,
    EMBEDDING,
    POSITIONS,
    Memory,
    logit_scores,
    nuclear_norms,
)
from partitionsel_jax.step.state import Others
from partitionsel_jax.step.step import Step
from tests.step.test_proxy import small_config, stop_after_two_updates
from tests.step.test_step import random_rows
from tests.tiny_runs import tiny_config, without_seconds

SLOTS, WEIGHT = 12, 2.0  # of two updates not all that they select


def varied_rows(count, seed):
    """Rows of many lengths, whose responses are one token, all of them, or none at all."""
    rows, rng = random_rows(count, seed), np.random.default_rng(seed)
    place, ends = np.arange(rows.tokens.shape[1])[None, :], rng.integers(2, 11, count)[:, None]
    starts = rng.integers(0, ends + 1)
    return rows._replace(response=(place >= starts) & (place < ends))


def batches():
    return [(varied_rows(16, 10 + n), varied_rows(8, 90 + n)) for n in range(3)]


def singular(matrices):
    return np.linalg.svd(np.asarray(matrices, np.float64), compute_uv=False).sum(axis=-1)


@pytest.mark.parametrize(
    "shape", [(2, 1, 1), (3, 1, 7), (2, 9, 1), (2, 6, 20), (2, 20, 6), (1, 64, 64)], ids=str
)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_nuclear_norms_are_sums_of_singular_values(shape, scale):
    # One direction outweighs all others, as it does in the activations of language models.
    made = np.random.default_rng(0).normal(size=shape) + 10.0
    made = np.float32(scale * made)
    np.testing.assert_allclose(nuclear_norms(jnp.asarray(made)), singular(made), rtol=1e-4)


def test_small_singular_values_count_as_well():
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(48, 48)))[0] for _ in range(2))
    made = np.float32(left * np.logspace(0, -4, 48) @ right)[None]
    np.testing.assert_allclose(nuclear_norms(jnp.asarray(made)), singular(made), rtol=1e-4)
    assert nuclear_norms(jnp.zeros((1, 3, 4))).tolist() == [0.0]


def masked_logits(model, parameters, rows):
    """The logits of the response, packed: f32[T - 1, V] of every row, zeros behind."""
    logits = np.asarray(jax.jit(model.apply)(parameters, rows.tokens))[:, :-1]
    counted = np.asarray(rows.response)[:, 1:]
    found = np.zeros_like(logits)
    for row, here in enumerate(counted):
        found[row, : here.sum()] = logits[row, here]
    return found


def embedded(logits):
    """P L Q with its matrices of signs written out."""
    left, right = jax.random.split(jax.random.key(0))
    signs = np.asarray(Side(left, logits.shape[1], POSITIONS).rows(0, logits.shape[1]))
    columns = np.asarray(Side(right, logits.shape[2], COLUMNS).rows(0, logits.shape[2]))
    projected = np.einsum("tr,btv,vc->brc", signs, logits, columns) / np.sqrt(EMBEDDING)
    return projected.reshape(len(logits), EMBEDDING)


@pytest.mark.parametrize(
    ("changes", "widths"),
    [({}, (8,)), ({"tied": False, "width": 320}, ())],
    ids=["tied", "more width than vocabulary"],
)
def test_scores_are_those_of_the_logits_at_the_response(changes, widths):
    config = tiny_config()
    shape = {**config.model.to_dict(), **changes}
    model = models.Model(run_settings.build(models.DecoderConfig, shape, "model"))
    parameters = model.init(jax.random.key(0))
    rows = varied_rows(9, 3)
    rows.response[4] = False
    memory = Memory(jnp.asarray(embedded(masked_logits(model, parameters, rows))[:3]), jnp.int32(2))
    scored = jax.jit(
        lambda rows: logit_scores(
            *(model, parameters, rows),
            microbatch=3,
            buckets=features.buckets_of(rows, widths),
            memory=memory,
            weight=0.5,
        )
    )(jax.tree.map(jnp.asarray, rows))
    logits = masked_logits(model, parameters, rows)
    np.testing.assert_allclose(scored.nuclear_norms, singular(logits), rtol=1e-3)
    assert scored.nuclear_norms[4] == 0.0
    expected = embedded(logits)
    np.testing.assert_allclose(scored.embeddings, expected, rtol=1e-3, atol=1e-4)
    far = 0.5 * cdist(expected, expected[:2]).mean(axis=1)
    np.testing.assert_allclose(scored.novelty, far, rtol=1e-3, atol=1e-2)


def test_embeddings_keep_distances_of_logits():
    logits = np.random.default_rng(0).normal(size=(12, 30, 50)).astype(np.float32)
    found = cdist(embedded(logits), embedded(logits))
    true = cdist(logits.reshape(12, -1), logits.reshape(12, -1))
    pairs = np.triu_indices(12, 1)
    ratio = found[pairs] / true[pairs]
    assert abs(ratio.mean() - 1) < 0.1 and ratio.std() < 0.3


def test_the_memory_holds_the_newest_and_forgets_the_oldest():
    rng, memory, kept = np.random.default_rng(0), Memory.empty(5), []
    assert memory.distances(jnp.ones((2, EMBEDDING))).tolist() == [0.0, 0.0]
    for _ in range(6):
        pool = np.float32(rng.normal(size=(8, EMBEDDING)))
        indices = rng.permutation(8)[:3].astype(np.int32)
        indices[rng.integers(0, 3)] = -1
        memory = memory.after(jnp.asarray(pool), jnp.asarray(indices))
        kept = [*kept, *pool[indices[indices >= 0]]][-5:]
        expected = cdist(pool, kept).mean(axis=1)
        np.testing.assert_allclose(memory.distances(jnp.asarray(pool)), expected, rtol=1e-3)
    assert sorted(memory.embeddings[:, 0].tolist()) == sorted(row[0].item() for row in kept)


def uds_settings(devices=1, proxy=False, **changes):
    config = tiny_config()
    config.selection.update({"utility": "uds", "remembered": SLOTS, "diversity": WEIGHT})
    config.update_from_flattened_dict(changes)
    if not proxy:
        return run_settings.parse(config.to_dict())
    config.selection.proxy = "small"
    shape = small_config()
    shape.model.remat = config.model.remat
    made = {"model": shape.model.to_dict(), "lora": shape.lora.to_dict()}
    return run_settings.parse(config.to_dict() | {"proxy": made})


@functools.cache
def run(proxy=False, form="pmap", devices=1, split=False, other_anchors=False):
    """Records of three updates, and the states around them."""
    more = {"training.spmd": form, "training.split_weights": split}
    step = Step.create(
        uds_settings(proxy=proxy, **more, **({"model.remat": "layer"} if split else {})), devices
    )
    layout = spmd.Layout.first(devices, form, split)
    small = step.chooser.init(jax.random.key(7)) if proxy else None
    if proxy and split:
        small = models.Model(step.chooser.config).init(jax.random.key(7))
    state, frozen = layout.place(step.initial(1))
    others = layout.place(Others(None, small))
    program = layout.map(step.__call__, step.KINDS, returns_first=True)
    states, records = [jax.device_get(state)], []
    for pool, anchors in batches():
        anchors = varied_rows(8, 70) if other_anchors else anchors
        state, record = program(
            state, frozen, layout.rows(pool), layout.rows(anchors), jnp.int32(0), others
        )
        records.append(jax.device_get(record))
        states.append(jax.device_get(state))
    return records, states


def test_the_step_selects_what_the_definition_selects():
    """An oracle: singular values and distances of whole logits, and a list for the memory."""
    records, states = run()
    step, kept = Step.create(uds_settings()), []
    for (pool, _), record, state in zip(batches(), records, states, strict=False):
        logits = masked_logits(step.model, state.parameters, pool)
        embeddings = embedded(logits)
        score = singular(logits)
        if kept:
            score = score + WEIGHT * cdist(embeddings, kept[-SLOTS:]).mean(axis=1)
        score[~pool.response[:, 1:].any(axis=1)] = -np.inf
        best = [
            order[: record["budgets"][domain]]
            for domain in range(2)
            for order in [
                sorted(np.flatnonzero(pool.domain == domain), key=lambda row: -score[row])
            ]
        ]
        assert sorted(record["indices"].tolist()) == sorted(np.concatenate(best).tolist())
        np.testing.assert_allclose(record["gains"], score[record["indices"]], rtol=1e-3)
        kept += list(embeddings[record["indices"]])
    assert int(states[-1].kept.memory.seen) == len(kept)


@pytest.mark.parametrize(
    ("proxy", "form", "devices", "split"),
    [
        (False, "pmap", 4, False),
        (False, "shard_map", 8, False),
        (True, "shard_map", 2, True),
    ],
)
def test_selections_do_not_depend_on_the_layout(proxy, form, devices, split):
    expected, found = run(proxy)[0], run(proxy, form, devices, split)[0]
    for one, two in zip(expected, found, strict=True):
        assert one["ids"].tolist() == two["ids"].tolist()
        np.testing.assert_allclose(one["gains"], two["gains"], rtol=1e-3)


def test_a_proxy_selects_in_the_models_stead():
    ids = [[record["ids"].tolist() for record in run(proxy)[0]] for proxy in (False, True)]
    assert ids[0] != ids[1]


def test_anchors_are_not_looked_at():
    for one, two in zip(run()[0], run(other_anchors=True)[0], strict=True):
        assert one["ids"].tolist() == two["ids"].tolist()
        np.testing.assert_array_equal(one["loss"], two["loss"])


def planned(tiny, **changes):
    tiny.selection.update({"utility": "uds", "remembered": SLOTS} | changes)
    tiny.training.update({"updates": 4, "evaluate_every": 2, "checkpoint_every": 2})
    (made,) = training.expand(tiny.to_dict())
    return made


def test_a_run_continues_bit_for_bit_with_its_memory(tiny, tmp_path):
    run = planned(tiny)
    whole = training.train(run, tmp_path / "whole")
    stop_after_two_updates(run, tmp_path / "stopped")
    again = training.train(run, tmp_path / "stopped")
    assert again["fingerprint"] == whole["fingerprint"]
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "stopped")
    with pytest.raises(ValueError, match=r"remembers what it selected .* selection\.remembered"):
        sweeps.score(tmp_path / "whole", tmp_path / "scores", ["uds"], {})


def test_flops_are_those_of_the_pool_forward_and_of_the_scores():
    def counted(response, utility="uds"):
        mask = np.broadcast_to(np.arange(48) >= 48 - response, (4, 48))
        nothing = np.zeros(4, np.int32)
        rows = Rows(np.zeros((4, 48), np.int32), mask, nothing, nothing, nothing > 0)
        return costs.count_flops(uds_settings(**{"selection.utility": utility}), 1, rows)

    def scored(tokens, width=16):
        """A row's products: its root, two in each of 15 steps, and the projection's left side."""
        short, long = sorted((tokens, width))
        return 2 * tokens * width**2 + 15 * 4 * short**2 * long + 2 * POSITIONS * tokens * width

    short, long = counted(5), counted(47)
    assert short.feature_tokens == long.feature_tokens == 16 * 48
    assert short.update <= long.update
    # Of 47 tokens that are predicted a quarter holds twice 5.
    assert long.features - short.features == 16 * (scored(47) - scored(12))
    assert 16 * scored(12) < short.features
    # Neither anchors nor a backward pass; the loss needs no more than the head's product.
    assert counted(5, "loss").features < short.features < counted(5, "gradient_matching").features


def test_memory_is_planned_for_what_is_remembered():
    found = predictions.memory_of(uds_settings())
    assert found["features"] * 1e9 == 4 * EMBEDDING * 16
    # Before the update, and after it.
    assert found["cache"] * 1e9 == pytest.approx(2 * (4 * EMBEDDING * SLOTS + 4))


@pytest.mark.parametrize("remembered", [1, 7])
def test_a_memory_below_one_update_is_refused(remembered):
    with pytest.raises(ValueError, match=rf"remembered={remembered} rows cannot hold the 8 of"):
        uds_settings(**{"selection.remembered": remembered})
