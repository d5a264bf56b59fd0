"""The factored path against a Python loop of `jax.grad` and against the reference path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec

from partitionsel_jax import gradients, models

LAYERS, TOKENS, BATCH = 3, 6, 7
SHAPE = {
    "vocab_size": 11,
    "layers": LAYERS,
    "width": 8,
    "mlp_width": 12,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 4,
}


def make_model(lora=None, **changes):
    return models.Model(models.DecoderConfig(**SHAPE | changes), lora or models.LoRAConfig())


EVERYWHERE = models.LoRAConfig(rank=2, alpha=4.0)
MODELS = {
    "tied": make_model(EVERYWHERE, tied=True, biases=("q", "k", "v")),
    "untied": make_model(
        models.LoRAConfig(3, 6.0, ("q", "v", "down")), tied=False, biases=("q", "k", "v")
    ),
    "plain": make_model(tied=True, kv_heads=2),
    "remat": make_model(EVERYWHERE, tied=False, remat="layer"),
    "bare": make_model(tied=False),
    # Factors of all matrices but those of k and v, adapted and not.
    "low rank": make_model(models.LoRAConfig(2, 4.0, ("q", "k")), tied=False, rank=3),
}
CASES = [
    ("tied", "full", 0),
    ("tied", "lora", 0),
    ("tied", "full", 1),
    ("untied", "full", 0),
    ("untied", "lora", 2),
    ("untied", "lora_b", 1),
    ("plain", "full", 2),
    ("remat", "full", 0),
    ("low rank", "full", 1),
]
# Each rule of the factored path, once with a sketch; programs of many matrices are slow to compile.
SKETCHED = [
    ("tied", "full", 0),
    ("bare", "full", 0),
    ("untied", "lora", 2),
    ("untied", "lora_b", 1),
    ("remat", "lora", 0),
]


@functools.cache
def parameters_of(name):
    # Adapters, biases and norms far from where they start, which would hide half of the gradients.
    rng = np.random.default_rng(1)
    model = MODELS[name]
    return jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        model.init(jax.random.key(0)),
    )


def make_rows():
    """Masks of different lengths; row 4 has a single response token, row 5 none, row 6 padding."""
    place = np.arange(TOKENS)[None, :]
    starts, stops = np.array([1, 2, 3, 4, 5, 6, 2]), np.array([6, 6, 6, 6, 6, 6, 4])
    tokens = np.random.default_rng(2).integers(0, 10, (BATCH, TOKENS))
    response = (place >= starts[:, None]) & (place < stops[:, None])
    return {"tokens": jnp.asarray(tokens, jnp.int32), "response": jnp.asarray(response)}


ROWS = make_rows()
WITHOUT = 5


def scope_of(kind, last):
    return gradients.Scope(kind, last, LAYERS)


def factored(model, scope, sketch, parameters, rows, microbatch=3, normalize=False):
    def losses(rows, tap):
        return model.losses(parameters, rows["tokens"], rows["response"], scope.stop_below, tap)

    return gradients.factored_features(
        losses,
        scope.extract(parameters),
        rows,
        sketch,
        microbatch=microbatch,
        normalize=normalize,
    )


def reference(model, scope, sketch, parameters, rows, microbatch=3):
    scoped = scope.extract(parameters)

    def loss(scoped, row):
        everything = scope.insert(parameters, scoped)
        tokens, response = row["tokens"][None], row["response"][None]
        return model.losses(everything, tokens, response, scope.stop_below)[0]

    return gradients.per_example_features(
        loss,
        scoped,
        rows,
        sketch,
        microbatch=microbatch,
        normalize=False,
        stacked=gradients.stacked(scoped),
    )


def coordinates(scope, parameters):
    return sum(leaf.size for leaf in scope.extract(parameters).values())


@functools.cache
def loop_of_grad(name, dtype="float32"):
    """Each row's gradient of the whole tree, by path, and its loss: no code of `gradients`."""
    model = MODELS[name] if dtype == "float32" else HALF

    def loss(parameters, tokens, response):
        logits = model.apply(parameters, tokens[None])
        return models.response_loss(logits, tokens[None], response[None])[0]

    one = jax.jit(jax.value_and_grad(loss))
    found = []
    for tokens, response in zip(ROWS["tokens"], ROWS["response"], strict=True):
        value, gradient = one(parameters_of(name), tokens, response)
        found.append((float(value), traverse_util.flatten_dict(gradient)))
    return found


def exact_vectors(name, kind, last, dtype="float32"):
    """The rows' gradients in scope as one vector each, cut by hand."""
    kept = {"full": lambda path: True}
    kept["lora"] = lambda path: path[-1] in ("lora_a", "lora_b")
    kept["lora_b"] = lambda path: path[-1] == "lora_b"
    vectors = []
    for _, gradient in loop_of_grad(name, dtype):
        pieces = []
        for path in sorted(gradient):
            inside = path[0] == "layers"
            if kept[kind](path) and (inside or not last):
                leaf = gradient[path][-last:] if last else gradient[path]
                pieces.append(np.ravel(np.asarray(leaf, np.float64)))
        vectors.append(np.concatenate(pieces))
    return np.stack(vectors)


def close(found, expected, tolerance):
    """Equal up to `tolerance` of the largest entry."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@functools.cache
def identity_features(name, kind, last):
    scope, parameters = scope_of(kind, last), parameters_of(name)
    sketch = gradients.make_sketch("identity", coordinates(scope, parameters))
    run = jax.jit(functools.partial(factored, MODELS[name], scope, sketch))
    return jax.tree.map(np.asarray, run(parameters, ROWS))


@pytest.mark.parametrize(("name", "kind", "last"), CASES)
def test_gram_matrices_are_those_of_a_loop_of_grad(name, kind, last):
    found, exact = identity_features(name, kind, last), exact_vectors(name, kind, last)
    vectors = found.vectors.astype(np.float64)
    close(vectors @ vectors.T, exact @ exact.T, 1e-5)
    close(vectors, exact, 1e-5)
    close(found.norms, np.linalg.norm(exact, axis=1), 1e-5)
    close(found.losses, [value for value, _ in loop_of_grad(name)], 1e-5)
    assert not found.vectors[WITHOUT].any() and found.losses[WITHOUT] == 0


def test_norms_and_biases_have_their_exact_gradients():
    """A sum over all coordinates would hide an error in leaves as small as these."""
    found, start, seen = identity_features("tied", "full", 0).vectors, 0, set()
    rows = [gradient for _, gradient in loop_of_grad("tied")]
    for path in sorted(rows[0]):
        exact = np.stack([np.ravel(row[path]) for row in rows])
        mine = found[:, start : start + exact.shape[1]]
        start += exact.shape[1]
        if path[-1] in ("scale", "bias"):
            close(mine, exact, 1e-5)
            seen.add(path[-2])
    assert seen == {"norm", "attention_norm", "mlp_norm", "q", "k", "v"}


HALF = make_model(EVERYWHERE, tied=True, biases=("q", "k", "v"), dtype="bfloat16")


def test_gram_matrices_follow_those_of_a_loop_of_grad_in_bfloat16():
    scope, parameters = scope_of("full", 0), parameters_of("tied")
    sketch = gradients.make_sketch("identity", coordinates(scope, parameters))
    found = jax.jit(functools.partial(factored, HALF, scope, sketch))(parameters, ROWS)
    exact = exact_vectors("tied", "full", 0, "bfloat16")
    vectors = np.asarray(found.vectors, np.float64)
    assert found.vectors.dtype == jnp.float32
    close(vectors @ vectors.T, exact @ exact.T, 2e-2)


@pytest.mark.parametrize(("name", "kind", "last"), SKETCHED)
def test_two_sided_features_are_those_of_the_reference_path(name, kind, last):
    scope, sketch = scope_of(kind, last), gradients.make_sketch("two_sided", 37, seed=5)
    both = jax.jit(
        lambda *arguments: [
            path(MODELS[name], scope, sketch, *arguments) for path in (factored, reference)
        ]
    )
    mine, expected = both(parameters_of(name), ROWS)
    close(mine.vectors, expected.vectors, 1e-5)
    close(mine.losses, expected.losses, 1e-5)


@pytest.fixture(scope="module")
def small():
    """One compiled case to vary: (model, scope, sketch, its features)."""
    scope, sketch = scope_of("lora", 1), gradients.make_sketch("two_sided", 12, seed=3)
    run = jax.jit(functools.partial(factored, MODELS["tied"], scope, sketch))
    return MODELS["tied"], scope, sketch, run(parameters_of("tied"), ROWS)


@pytest.mark.parametrize("microbatch", [1, 64])
def test_the_microbatch_changes_nothing(small, microbatch):
    model, scope, sketch, expected = small
    run = jax.jit(functools.partial(factored, model, scope, sketch, microbatch=microbatch))
    close(run(parameters_of("tied"), ROWS).vectors, expected.vectors, 1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_may_be_one_row_or_none(small, count):
    model, scope, sketch, expected = small
    rows = jax.tree.map(lambda leaf: leaf[:count], ROWS)
    found = jax.jit(functools.partial(factored, model, scope, sketch))(parameters_of("tied"), rows)
    assert found.vectors.shape == (count, 12) and found.losses.shape == (count,)
    np.testing.assert_allclose(found.vectors, expected.vectors[:count], rtol=1e-4, atol=1e-5)


def test_normalised_features_have_norm_one_and_zero_ones_stay_zero(small):
    model, scope, sketch, plain = small
    run = jax.jit(functools.partial(factored, model, scope, sketch, normalize=True))
    found = run(parameters_of("tied"), ROWS)
    expected = np.ones(BATCH)
    expected[WITHOUT] = 0
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(found.norms, np.linalg.norm(plain.vectors, axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("path", "family", "name", "kind", "last", "mapped"),
    [
        (factored, "two_sided", "bare", "full", 0, "shard_map"),
        (factored, "identity", "untied", "lora", 1, "pmap"),
        (reference, "two_sided", "untied", "lora", 1, "shard_map"),
        (reference, "srht", "bare", "full", 0, "pmap"),
    ],
)
def test_two_devices_give_what_one_gives(path, family, name, kind, last, mapped):
    """Under the default `check_vma`: differentiating what is replicated would sum over devices."""
    model, parameters, scope = MODELS[name], parameters_of(name), scope_of(kind, last)
    dim = coordinates(scope, parameters) if family == "identity" else 20
    run = functools.partial(path, model, scope, gradients.make_sketch(family, dim, seed=1))
    rows = jax.tree.map(lambda leaf: leaf[:6], ROWS)
    expected = jax.jit(run)(parameters, rows)
    if mapped == "pmap":
        halves = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), rows)
        found = jax.pmap(run, in_axes=(None, 0), axis_name="data", devices=jax.devices()[:2])(
            parameters, halves
        )
        found = jax.tree.map(lambda leaf: leaf.reshape(6, *leaf.shape[2:]), found)
    else:
        mesh = jax.make_mesh(
            (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
        )
        specs = PartitionSpec(), PartitionSpec("data")
        sharded = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=specs[1])
        found = jax.jit(sharded)(parameters, rows)
    close(found.vectors, expected.vectors, 1e-5)
    close(found.norms, expected.norms, 1e-5)
    close(found.losses, expected.losses, 1e-5)


@pytest.mark.parametrize("path", [factored, reference])
def test_a_broken_row_breaks_only_itself(path):
    """A token whose embedding is NaN, in one row of a microbatch of five."""
    parameters = dict(parameters_of("bare"))
    parameters["embedding"] = parameters["embedding"].at[10].set(jnp.nan)
    rows = ROWS | {"tokens": ROWS["tokens"].at[2, 1].set(10)}
    scope = scope_of("full", 0)
    sketch = gradients.make_sketch("identity", coordinates(scope, parameters))
    run = functools.partial(path, MODELS["bare"], scope, sketch, microbatch=5)
    found = jax.jit(run)(parameters, rows)
    sound = np.isfinite(found.vectors).all(axis=1)
    assert sound.tolist() == [index != 2 for index in range(BATCH)]
    assert np.isfinite(found.losses).tolist() == sound.tolist()


def equations(jaxpr, times=1):
    """Every equation of a jaxpr and how often it runs; loops of unknown length count once."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * equation.params.get("length", 1)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield from equations(value, inner)


def traced(path, name, kind, last):
    run = functools.partial(
        path, MODELS[name], scope_of(kind, last), gradients.make_sketch("two_sided", 37)
    )
    # Eight rows in microbatches of five: no other axis of the program is as long as five.
    return jax.make_jaxpr(functools.partial(run, microbatch=5))(parameters_of(name), ROWS).jaxpr


def weight_gradients(jaxpr, scoped):
    """Arrays [..., 5, in, out] for a matrix [in, out] in scope."""
    wanted = {(5, *leaf.shape[-2:]) for path, leaf in scoped.items() if path[-1] != "scale"}
    return [
        variable.aval.shape
        for equation, _ in equations(jaxpr)
        for variable in equation.outvars
        if tuple(getattr(variable.aval, "shape", ()))[-3:] in wanted
    ]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_no_gradient_of_a_matrix_of_one_example_is_ever_formed(kind):
    scoped = scope_of(kind, 0).extract(parameters_of("plain" if kind == "full" else "tied"))
    name = "plain" if kind == "full" else "tied"
    assert weight_gradients(traced(reference, name, kind, 0), scoped)
    assert not weight_gradients(traced(factored, name, kind, 0), scoped)


def backward_layers(jaxpr):
    """How many layers every scan that runs backwards goes through."""
    return [
        equation.params["length"]
        for equation, _ in equations(jaxpr)
        if equation.primitive.name == "scan" and equation.params["reverse"]
    ]


def multiplications(jaxpr):
    """Scalar products of all matrix products, times the lengths of the scans around them."""
    total = 0
    for equation, times in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            length = np.prod([left[axis] for axis in contracted], initial=1)
            total += times * length * np.prod(equation.outvars[0].aval.shape, initial=1)
    return total


@pytest.mark.parametrize("path", [factored, reference])
def test_the_backward_pass_stops_below_the_scope(path):
    programs = {last: traced(path, "plain", "full", last) for last in (0, 1, 2, 3)}
    for last, program in programs.items():
        assert backward_layers(program) == [last or LAYERS]
    costs = {last: multiplications(program) for last, program in programs.items()}
    assert costs[3] - costs[2] == costs[2] - costs[1] > 0.25 * costs[1]
    assert costs[0] > costs[3]


def test_families_that_need_whole_gradients_are_refused():
    scope = scope_of("full", 0)
    for family in set(gradients.FAMILIES) - set(gradients.FACTORED):
        with pytest.raises(ValueError, match=rf"{family}.*\['identity', 'two_sided'\].*reference"):
            factored(
                MODELS["tied"], scope, gradients.make_sketch(family, 8), parameters_of("tied"), ROWS
            )


def test_an_identity_of_another_size_is_refused():
    scope, parameters = scope_of("lora", 1), parameters_of("tied")
    size = coordinates(scope, parameters)
    with pytest.raises(ValueError, match=rf"all {size} coordinates .* dim={size + 1}"):
        sketch = gradients.make_sketch("identity", size + 1)
        factored(MODELS["tied"], scope, sketch, parameters, ROWS)


def test_bad_scopes_and_microbatches_are_refused(small):
    model, scope, sketch, _ = small
    with pytest.raises(ValueError, match=r"microbatch must be at least 1, .*0"):
        factored(model, scope, sketch, parameters_of("tied"), ROWS, microbatch=0)
    with pytest.raises(ValueError, match=r"matches no parameter; .* lora.rank > 0"):
        factored(MODELS["plain"], scope, sketch, parameters_of("plain"), ROWS)
