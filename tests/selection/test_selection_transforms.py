"""`select` and the budgets give one answer under every transformation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from selection_problems import make_problem

from partitionsel_jax import selection

DEVICES = 8
CHOICES = [
    {"utility": "gradient_matching", "rule": "residual_random"},
    {"utility": "alignment"},
    {"utility": "random"},
]


@functools.cache
def problems():
    made = [make_problem(np.random.default_rng(seed))[0] for seed in range(DEVICES)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def shard_mapped(function, check_vma):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def per_device(problem, key):
        answer = function(jax.tree.map(lambda leaf: leaf[0], problem), key[0])
        return jax.tree.map(lambda leaf: leaf[None], answer)

    spec = PartitionSpec("data")
    return jax.jit(
        jax.shard_map(
            per_device, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=check_vma
        )
    )


@pytest.mark.parametrize("options", CHOICES, ids=lambda options: "-".join(map(str, options)))
def test_select_agrees_eagerly_and_under_jit_vmap_pmap_and_shard_map(options):
    keys = jax.random.split(jax.random.key(0), DEVICES)

    def run(problem, key):
        # Constant budgets: under shard_map they vary over nothing, unlike the pool.
        problem = dataclasses.replace(problem, budgets=jnp.array([3, 3, 2]))
        return selection.select(problem, size=8, key=key, **options)

    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], (problems(), keys)) for i in range(DEVICES)]
    eager = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run(*row) for row in rows))
    for name, answer in {
        "jit of vmap": jax.jit(jax.vmap(run))(problems(), keys),
        "pmap": jax.pmap(run)(problems(), keys),
        "shard_map": shard_mapped(run, check_vma=True)(problems(), keys),
    }.items():
        np.testing.assert_array_equal(answer.indices, eager.indices, err_msg=name)
        np.testing.assert_allclose(answer.weights, eager.weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(answer.utility, eager.utility, rtol=1e-5)
        np.testing.assert_allclose(answer.certificate, eager.certificate, rtol=1e-3)


def test_restarts_from_one_key_per_device_share_a_replicated_pool():
    problem = jax.tree.map(lambda leaf: leaf[0], problems())
    keys = jax.random.split(jax.random.key(1), DEVICES)

    def run(_, key):
        options = {"size": 8, "rule": "residual_random", "swaps": 1}
        return selection.select(problem, key=key, **options).indices

    restarts = shard_mapped(run, check_vma=True)(jnp.zeros(DEVICES), keys)
    for picks, key in zip(restarts, keys, strict=True):
        np.testing.assert_array_equal(picks, run(None, key))


def test_select_maps_over_budgets_and_ridge():
    problem = jax.tree.map(lambda leaf: leaf[0], problems())
    budgets = jnp.array([[8, 0, 0], [0, 8, 0], [3, 3, 2]])
    ridges = jnp.array([0.0, 0.1, 1.0])

    @jax.jit
    @jax.vmap
    def run(budget, ridge):
        posed = selection.Problem(problem.alignment, problem.gram, problem.domains, budget)
        return selection.select(posed, size=8, ridge=ridge).indices

    for budget, picks in zip(budgets, run(budgets, ridges), strict=True):
        mix = selection.diagnostics.domain_mix(problem.domains, picks, 3)
        np.testing.assert_array_equal(mix, budget)


def test_budgets_agree_under_vmap_and_shard_map():
    counts = jnp.asarray(np.random.default_rng(0).integers(8, 40, (DEVICES, 5)), jnp.int32)

    def run(row, _):
        return (
            selection.budgets.proportional(row, 17),
            selection.budgets.uniform(row, 17),
            selection.budgets.fixed(row, 17, jnp.array([1.0, 0.0, 2.0, 3.0, 0.5])),
            selection.budgets.temperature(row, 17, 0.5),
        )

    eager = [run(row, None) for row in counts]
    unused = jnp.zeros(DEVICES)
    mapped = jax.jit(jax.vmap(run))(counts, unused)
    sharded = shard_mapped(run, check_vma=True)(counts, unused)
    for i in range(4):
        expected = np.stack([row[i] for row in eager])
        np.testing.assert_array_equal(mapped[i], expected)
        np.testing.assert_array_equal(sharded[i], expected)


CALLS = [
    {"utility": utility, "rule": rule}
    for utility, entry in selection.UTILITIES.items()
    for rule in entry.rules
] + [{"solver": "published"}, {"swaps": 1}]


@pytest.mark.parametrize("options", CALLS, ids=lambda call: "-".join(map(str, call.values())))
@pytest.mark.parametrize("coupling", list(selection.COUPLINGS))
def test_every_utility_traces_under_shard_map_with_its_checks(options, coupling):
    """What varies over the mesh is checked when a program is traced; nothing is compiled here."""
    size = 40 if selection.UTILITIES[options.get("utility", "random")].takes_all else 8

    def run(problem, key):
        similar = problem.gram[:, :5]
        scores = dict.fromkeys(("losses", "nuclear_norms", "novelty"), problem.alignment)
        posed = dataclasses.replace(problem, anchor_similarity=similar, **scores)
        return selection.select(posed, size=size, coupling=coupling, key=key, **options)

    keys = jax.random.split(jax.random.key(0), DEVICES)
    made = jax.eval_shape(shard_mapped(run, check_vma=True), problems(), keys)
    assert made.indices.shape == (DEVICES, size)


def test_best_of_is_the_best_of_its_draws_and_one_program():
    problem = jax.tree.map(lambda leaf: leaf[0], problems())
    key = jax.random.key(3)
    best = selection.best_of(problem, size=8, restarts=6, key=key)
    draws = [
        selection.select(problem, size=8, rule="residual_random", key=own)
        for own in jax.random.split(key, 6)
    ]
    values = [float(draw.utility) for draw in draws]
    winner = draws[int(np.argmax(values))]
    assert len(set(values)) > 1
    assert best.indices.tolist() == winner.indices.tolist()
    np.testing.assert_allclose(best.utility, winner.utility, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"restarts": 0}, "restarts"),
        ({"restarts": 2.0}, "restarts"),
        ({"restarts": 2, "rule": "greedy"}, "draws"),
        ({"restarts": 2, "utility": "alignment"}, "rule='residual_random'"),
    ],
)
def test_best_of_refuses(options, message):
    problem = jax.tree.map(lambda leaf: leaf[0], problems())
    with pytest.raises(ValueError, match=message):
        selection.best_of(problem, size=8, key=jax.random.key(0), **options)
