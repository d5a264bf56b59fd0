"""The loss counts response tokens only, with logits of everything and without them.

Greedy decoding equals a token-by-token loop.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partitionsel_jax import models
from partitionsel_jax.models import losses

BATCH, TOKENS, WIDTH, VOCAB = 4, 6, 5, 301
SMALL = models.Chunks(vocab=128, tokens=4)
# Blocks that divide 301 and 20 nowhere, one block of either, single entries of either.
CUTS = {
    "uneven": SMALL,
    "odd": models.Chunks(vocab=97, tokens=3),
    "one": models.Chunks(),
    "all tokens": models.Chunks(vocab=7, tokens=100),
    "all columns": models.Chunks(vocab=301, tokens=1),
}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["key"], meta_fields=["width"])
@dataclasses.dataclass(frozen=True)
class Normal:
    """A probe: row i depends on (key, i) alone."""

    key: jax.Array
    width: int

    def at(self, rows):
        def one(row):
            return jax.random.normal(jax.random.fold_in(self.key, row), (self.width,))

        return jnp.vectorize(one, signature="()->(k)")(rows)

    def rows(self, start, count):
        return self.at(start + jnp.arange(count))


PROBE = Normal(jax.random.key(9), 3)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    response = rng.random((BATCH, TOKENS)) < 0.6
    response[1] = [True, False, False, False, True, False]  # one counts, as the first is no target
    response[2] = [True] + [False] * (TOKENS - 1)  # none counts
    return {
        "x": jnp.asarray(rng.normal(size=(BATCH, TOKENS, WIDTH)), jnp.float32),
        "tokens": jnp.asarray(rng.integers(0, VOCAB, (BATCH, TOKENS))),
        "response": jnp.asarray(response),
    }


@pytest.fixture(scope="module")
def head():
    return jnp.asarray(np.random.default_rng(4).normal(size=(VOCAB, WIDTH)), jnp.float32)


def shift(tokens, response):
    """Targets of the positions that predict one, and which of them count."""
    return tokens[:, 1:], response[:, 1:]


def plain(x, head, tokens, response):
    """The oracle: all logits, of a head [V, D]."""
    logits = jnp.einsum("btd,vd->btv", x, head, precision="highest")
    return models.response_loss(logits, tokens, response)


def chunked(x, head, tokens, response, chunks=SMALL, vocab_axis=0):
    targets, counted = shift(tokens, response)
    nll = models.head_losses(
        x[:, :-1], head, targets, counted, vocab_axis=vocab_axis, chunks=chunks
    )
    return nll.sum(axis=-1) / jnp.maximum(counted.sum(axis=-1), 1)


def exact(x, head, targets):
    """nll [N], d nll / dx [N, D] and softmax - onehot [N, V], in float64."""
    logits = np.asarray(x, np.float64) @ np.asarray(head, np.float64).T
    softmax = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax /= softmax.sum(axis=-1, keepdims=True)
    picked = np.arange(len(targets)), np.asarray(targets)
    nll = -np.log(softmax[picked])
    softmax[picked] -= 1
    return nll, softmax @ np.asarray(head, np.float64), softmax


def weighted(loss, weights=(1.0, 2.0, -0.5, 3.0)):
    return lambda *arguments: jnp.sum(jnp.asarray(weights) * loss(*arguments))


def assert_close(found, expected, tolerance=1e-5):
    def check(one, two):
        scale = max(float(np.abs(two).max()), 1e-30) if two.size else 1.0
        np.testing.assert_allclose(
            np.asarray(one, np.float64), np.asarray(two, np.float64), atol=tolerance * scale
        )

    jax.tree.map(check, found, expected)


def test_response_loss_equals_its_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
    tokens = rng.integers(0, 7, size=(3, 5))
    response = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    losses = models.response_loss(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(response))
    for row in range(2):
        nll = []
        for t in np.flatnonzero(response[row]):
            scores = logits[row, t - 1].astype(np.float64)
            nll.append(np.log(np.exp(scores).sum()) - scores[tokens[row, t]])
        np.testing.assert_allclose(losses[row], np.mean(nll), rtol=1e-5)
    assert losses[2] == 0


def test_padding_and_prompt_get_no_gradient():
    tokens = jnp.array([[1, 2, 3, 0]])
    response = jnp.array([[False, False, True, False]])
    gradient = jax.grad(lambda x: models.response_loss(x, tokens, response).sum())(
        jnp.zeros((1, 4, 5))
    )
    assert np.any(gradient[0, 1])
    assert not np.any(gradient[0, [0, 2, 3]])


@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize("cut", CUTS)
def test_losses_and_gradients_equal_those_of_all_logits(rows, head, vocab_axis, cut):
    def ours(x, head):
        stored = head if vocab_axis == 0 else head.T
        return chunked(x, stored, rows["tokens"], rows["response"], CUTS[cut], vocab_axis)

    def oracle(x, head):
        return plain(x, head, rows["tokens"], rows["response"])

    np.testing.assert_allclose(ours(rows["x"], head), oracle(rows["x"], head), rtol=1e-5)
    for wanted in (0, 1, (0, 1)) if cut == "uneven" else ((0, 1),):
        found = jax.jit(jax.grad(weighted(ours), wanted))(rows["x"], head)
        assert_close(found, jax.grad(weighted(oracle), wanted)(rows["x"], head))


@pytest.mark.parametrize("cut", ["uneven", "one"])
def test_tokens_and_residuals_equal_their_definition_in_float64(rows, head, cut):
    targets, counted = shift(rows["tokens"], rows["response"])
    x = 4 * rows["x"][:, :-1]  # softmaxes from flat to nearly certain

    @jax.jit
    def ours(x):
        def total(x):
            nll, residual = models.head_losses(
                x, head, targets, counted, vocab_axis=0, chunks=CUTS[cut], probe=PROBE
            )
            return nll.sum(), (nll, residual)

        return jax.grad(total, has_aux=True)(x)

    gradient, (nll, residual) = ours(x)
    at = np.asarray(counted)
    expected, expected_gradient, error = exact(x[at], head, targets[at])
    assert_close(nll[at], expected)
    assert_close(gradient[at], expected_gradient)
    assert_close(residual[at], error @ np.asarray(PROBE.rows(0, VOCAB), np.float64))
    for array in (nll, gradient, residual):
        assert not np.any(np.asarray(array)[~at])


def test_a_residual_passes_no_gradient(rows, head):
    targets, counted = shift(rows["tokens"], rows["response"])

    def loss(x, head, share):
        nll, residual = models.head_losses(
            x[:, :-1], head, targets, counted, vocab_axis=0, chunks=SMALL, probe=PROBE
        )
        return nll.sum() + share * jnp.square(residual).sum()

    without, alongside = (
        jax.grad(loss, (0, 1))(rows["x"], head, jnp.float32(share)) for share in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, without, alongside)

    def alone(x):
        return models.head_losses(
            x, head, targets, counted, vocab_axis=0, chunks=SMALL, probe=PROBE
        )[1].sum()

    assert not np.any(jax.grad(alone)(rows["x"][:, :-1]))


def test_bfloat16_activations_meet_a_float32_head_in_bfloat16(rows, head):
    x = rows["x"].astype(jnp.bfloat16)

    def oracle(x, head):
        logits = jnp.dot(
            x, head.T.astype(x.dtype), preferred_element_type=jnp.float32, precision="highest"
        )
        return models.response_loss(logits, rows["tokens"], rows["response"])

    def ours(x, head):
        return chunked(x, head, rows["tokens"], rows["response"])

    value, found = jax.value_and_grad(weighted(ours), (0, 1))(x, head)
    expected_value, expected = jax.value_and_grad(weighted(oracle), (0, 1))(x, head)
    # The logits are the same numbers; the errors that meet the head are rounded once more.
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert found[0].dtype == jnp.bfloat16 and found[1].dtype == jnp.float32
    assert_close(found, expected, 2e-2)


@pytest.mark.parametrize("wanted", [0, 1, (0, 1)])
@pytest.mark.parametrize("own_heads", [False, True])
def test_gradients_of_single_examples_equal_those_of_a_loop(rows, head, wanted, own_heads):
    heads = head[None] * jnp.arange(1.0, BATCH + 1)[:, None, None]
    axes = (0, 0 if own_heads else None, 0, 0)

    def single(loss):
        return lambda x, head, tokens, response: loss(x[None], head, tokens[None], response[None])[
            0
        ]

    arguments = (rows["x"], heads if own_heads else head, rows["tokens"], rows["response"])
    found = jax.jit(jax.vmap(jax.value_and_grad(single(chunked), wanted), axes))(*arguments)
    for index in range(BATCH):
        row = [
            leaf[index] if axis == 0 else leaf for leaf, axis in zip(arguments, axes, strict=True)
        ]
        expected = jax.value_and_grad(single(plain), wanted)(*row)
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], found), expected)


def _scanned(loss, rows, head):
    """Over examples in a loop, recomputed in the backward pass."""
    one = jax.checkpoint(
        lambda x, tokens, response: loss(x[None], head, tokens[None], response[None])[0]
    )
    return lambda x: jax.lax.map(lambda row: one(*row), (x, rows["tokens"], rows["response"]))


def _batched(loss, rows, head):
    """Differentiated outside of the vmap."""

    def one(x, tokens, response):
        return loss(x[None], head, tokens[None], response[None])[0]

    return lambda x: jax.vmap(one)(x, rows["tokens"], rows["response"])


@pytest.mark.parametrize("wrap", [_scanned, _batched])
def test_gradients_are_the_same_through_loops_recomputation_and_vmap(rows, head, wrap):
    def gradients(loss):
        return jax.jit(jax.grad(lambda x, head: weighted(wrap(loss, rows, head))(x), (0, 1)))(
            rows["x"], head
        )

    assert_close(gradients(chunked), gradients(plain))


@pytest.mark.parametrize("spmd", ["pmap", "shard_map"])
def test_devices_compute_the_gradients_of_their_own_rows(rows, head, spmd):
    def of_rows(loss):
        def one(head, x, tokens, response):
            return loss(x[None], head, tokens[None], response[None])[0]

        # Anything summed over the devices would show in per-example gradients.
        return jax.vmap(jax.value_and_grad(one, (0, 1)), (None, 0, 0, 0))

    arguments = (rows["x"], rows["tokens"], rows["response"])
    expected = of_rows(plain)(head, *arguments)
    if spmd == "pmap":
        split = jax.tree.map(lambda leaf: leaf.reshape(2, BATCH // 2, *leaf.shape[1:]), arguments)
        found = jax.pmap(of_rows(chunked), in_axes=(None, 0, 0, 0))(head, *split)
        found = jax.tree.map(lambda leaf: leaf.reshape(BATCH, *leaf.shape[2:]), found)
    else:
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
        mapped = jax.shard_map(
            of_rows(chunked),
            mesh=mesh,
            in_specs=(whole, split, split, split),
            out_specs=split,
            check_vma=False,
        )
        found = jax.jit(mapped)(head, *arguments)
    assert_close(found, expected)


@pytest.mark.parametrize("batch, tokens", [(0, 4), (3, 1), (0, 1)])
def test_nothing_to_predict_is_a_loss_of_zero(head, batch, tokens):
    x = jnp.ones((batch, tokens, WIDTH))
    ids, response = jnp.zeros((batch, tokens), int), jnp.ones((batch, tokens), bool)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda x, h: chunked(x, h, ids, response).sum(), (0, 1))
    )(x, head)
    assert value == 0
    assert chunked(x, head, ids, response).shape == (batch,)
    assert not np.any(gradient[0]) and not np.any(gradient[1])
    nll, residual = models.head_losses(
        x, head, ids, jnp.zeros_like(response), vocab_axis=0, probe=PROBE
    )
    assert nll.shape == (batch, tokens) and residual.shape == (batch, tokens, PROBE.width)
    assert not np.any(nll) and not np.any(residual)


@pytest.mark.parametrize("cut", ["uneven", "one"])
def test_no_response_at_all_is_a_loss_of_zero(rows, head, cut):
    none = jnp.zeros_like(rows["response"])
    value, gradient = jax.value_and_grad(
        lambda x, h: chunked(x, h, rows["tokens"], none, CUTS[cut]).sum(), (0, 1)
    )(rows["x"] * jnp.nan, head)
    assert value == 0
    assert not np.any(gradient[0]) and not np.any(gradient[1])


@pytest.mark.parametrize("cut", ["uneven", "one"])
def test_what_uncounted_positions_hold_changes_nothing(rows, head, cut):
    def both(x, tokens):
        return jax.value_and_grad(
            lambda x, h: weighted(chunked)(x, h, tokens, rows["response"], CUTS[cut]), (0, 1)
        )(x, head)

    # x[:, t] predicts token t + 1, so its last position predicts nothing.
    counted = jnp.pad(rows["response"][:, 1:], ((0, 0), (0, 1)))
    poisoned = jnp.where(counted[..., None], rows["x"], jnp.nan)
    tokens = jnp.where(rows["response"], rows["tokens"], -1)
    jax.tree.map(
        np.testing.assert_array_equal, both(poisoned, tokens), both(rows["x"], rows["tokens"])
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("cut", ["uneven", "one"])
def test_a_broken_example_breaks_itself_only(rows, head, poison, cut):
    x = rows["x"].at[0].set(poison)

    def single(x, head, tokens, response):
        return chunked(x[None], head, tokens[None], response[None], CUTS[cut])[0]

    each = jax.vmap(jax.value_and_grad(single, (0, 1)), (0, None, 0, 0))
    found = each(x, head, rows["tokens"], rows["response"])
    clean = each(rows["x"], head, rows["tokens"], rows["response"])
    assert not np.isfinite(found[0][0]) and not np.isfinite(np.asarray(found[1][0][0])).all()
    jax.tree.map(lambda one, two: np.testing.assert_array_equal(one[1:], two[1:]), found, clean)
    # Weighted by zero it does not reach the head of a whole batch either.
    weights = (0.0, 1.0, 1.0, 1.0)
    shared = jax.grad(
        lambda h: weighted(chunked, weights)(x, h, rows["tokens"], rows["response"], CUTS[cut])
    )(head)
    assert_close(shared, clean[1][1][1:].sum(axis=0))


def test_an_example_without_response_passes_no_gradient_whatever_its_weight(rows, head):
    response = rows["response"].at[0].set(False)
    weights = (np.nan, 1.0, 1.0, 1.0)

    def gradients(loss):
        return jax.grad(weighted(loss, weights), (0, 1))(rows["x"], head, rows["tokens"], response)

    assert np.isfinite(np.asarray(gradients(plain)[1])).all()
    assert_close(gradients(chunked), gradients(plain))


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_counted_target_outside_the_vocabulary_is_not_silent(rows, head, token):
    tokens = rows["tokens"].at[1, 4].set(token)
    found = chunked(rows["x"], head, tokens, rows["response"])
    assert np.isnan(np.asarray(found)).tolist() == [False, True, False, False]


def test_a_target_beyond_the_vocabulary_has_no_gradient_either(rows, head):
    tokens = rows["tokens"].at[1, 4].set(VOCAB)
    found = jax.grad(lambda x: chunked(x, head, tokens, rows["response"]).sum())(rows["x"])
    assert np.isnan(np.asarray(found[1, 3])).all() and np.isfinite(np.asarray(found[0])).all()


def _arrays(jaxpr):
    """The shapes of all intermediate results of a jaxpr, loops and calls included."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            yield getattr(out.aval, "shape", ())
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _arrays(inner)


@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize("per_example, wanted", [(False, 0), (False, 1), (True, 0)])
def test_no_array_holds_more_logits_than_a_block(vocab_axis, per_example, wanted):
    batch, tokens, width, vocab, chunks = 6, 51, 2, 1009, models.Chunks(vocab=256, tokens=16)
    shape = (vocab, width) if vocab_axis == 0 else (width, vocab)

    def batch_loss(x, head, tokens, response):
        return chunked(x, head, tokens, response, chunks, vocab_axis).sum()

    def row_loss(x, head, tokens, response):
        return batch_loss(x[None], head, tokens[None], response[None])

    gradient = jax.value_and_grad(row_loss if per_example else batch_loss, wanted)
    if per_example:
        gradient = jax.vmap(gradient, (0, None, 0, 0))
    jaxpr = jax.make_jaxpr(gradient)(
        jnp.zeros((batch, tokens, width)),
        jnp.zeros(shape),
        jnp.zeros((batch, tokens), int),
        jnp.ones((batch, tokens), bool),
    ).jaxpr
    found = set(_arrays(jaxpr))
    assert (16, 256) in found  # the walk sees the blocks
    over_vocab = {size for size in found if vocab in size}
    assert over_vocab <= {shape}
    assert max(np.prod(size) for size in found) <= 16 * 256


def _products(function, *arguments):
    """How many matrix products a program contains, and the shapes of their results."""
    text = str(jax.make_jaxpr(function)(*arguments))
    return text.count("dot_general[")


def test_each_derivative_costs_the_products_it_states(rows, head):
    def loss(x, head):
        return chunked(x, head, rows["tokens"], rows["response"]).sum()

    assert _products(loss, rows["x"], head) == 1
    for wanted, count in ((0, 2), (1, 3), ((0, 1), 4)):
        assert _products(jax.value_and_grad(loss, wanted), rows["x"], head) == count


def test_only_blocks_with_a_counted_token_meet_the_head(monkeypatch, rows, head):
    blocks = []
    product = losses._product

    def counting(*arguments):
        jax.debug.callback(lambda: blocks.append(1))
        return product(*arguments)

    monkeypatch.setattr(losses, "_product", counting)
    targets, _ = shift(rows["tokens"], rows["response"])
    # Used by no other test, which would find these callbacks in its cached program.
    chunks = models.Chunks(vocab=129, tokens=8)

    @jax.jit
    def program(counted):
        return models.head_losses(
            rows["x"][:, :-1], head, targets, counted, vocab_axis=0, chunks=chunks
        )

    for count in (0, 1, 8, 9, 20):
        blocks.clear()
        program(jnp.arange(targets.size).reshape(targets.shape) < count)
        jax.effects_barrier()
        assert len(blocks) == 3 * -(-count // 8)
    assert program._cache_size() == 1  # the number of rounds is not compiled in


def test_blocks_of_tokens_grow_with_the_batch_within_bounds():
    sizes = {tokens: models.Chunks().token_block(tokens) for tokens in (1, 100, 2000, 9000, 10**6)}
    assert sizes == {1: 1, 100: 100, 2000: 256, 9000: 1152, 10**6: 2048}
    assert models.Chunks(tokens=7).token_block(100) == 7


def test_the_gradient_of_a_confident_token_survives_rounded_products(monkeypatch):
    """As where an accelerator multiplies float32 in bfloat16 parts."""
    product = losses._product

    def rounded(array):
        return jnp.asarray(array).astype(jnp.bfloat16).astype(jnp.float32)

    monkeypatch.setattr(
        losses, "_product", lambda left, right, *axes: product(rounded(left), rounded(right), *axes)
    )
    rng = np.random.default_rng(0)
    head = rng.normal(size=(VOCAB, 8)).astype(np.float32)
    # All but the target's logit are about 12 below it.
    x, target = np.zeros((1, 1, 8), np.float32), 3
    head[:, 0], head[target, 0], x[0, 0, 0] = 1.0, 4.0, 4.0
    # Used by no other test, which would find the rounding in its cached program.
    chunks = models.Chunks(vocab=131, tokens=5)

    def loss(x):
        targets, counted = jnp.full((1, 1), target), jnp.ones((1, 1), bool)
        return models.head_losses(
            x, jnp.asarray(head), targets, counted, vocab_axis=0, chunks=chunks
        ).sum()

    logits = np.asarray(rounded(head), np.float64) @ x[0, 0]
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    assert 1e-4 < 1 - probability[target] < 1e-2
    truth = (probability - np.eye(VOCAB)[target]) @ head
    found = np.asarray(jax.grad(loss)(jnp.asarray(x)))[0, 0]
    assert np.linalg.norm(found - truth) < 1e-2 * np.linalg.norm(truth)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"vocab_axis": 2}, "vocab_axis must be 0"),
        ({"vocab_axis": 1}, r"with the same D; got .*check vocab_axis=1"),
        ({"x_BxTxD": jnp.zeros((2, 5))}, r"x must be \[B, T, D\]"),
        ({"targets_BxT": jnp.zeros((2, 4), int)}, r"targets must be integer of shape \(2, 3\)"),
        ({"targets_BxT": jnp.zeros((2, 3))}, "targets must be integer"),
        ({"counted_BxT": jnp.zeros((2, 3))}, "counted must be bool"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, message):
    arguments = {
        "x_BxTxD": jnp.zeros((2, 3, 5)),
        "head": jnp.zeros((7, 5)),
        "targets_BxT": jnp.zeros((2, 3), int),
        "counted_BxT": jnp.zeros((2, 3), bool),
        "vocab_axis": 0,
    }
    with pytest.raises(ValueError, match=message):
        models.head_losses(**(arguments | changed))
