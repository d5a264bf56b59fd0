"""Shapes and dtypes of what the public functions of `selection` and `gradients` take and return.

One row of `TABLE` for each; nothing is computed, only traced. Letters: N pool, K selected,
P domains, A anchors, M feature dimension, B batch, D coordinates.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import pytest

from partitionsel_jax import gradients, models, selection
from partitionsel_jax.gradients import Scope, preconditioning
from partitionsel_jax.gradients.microbatches import Buckets, map_microbatches, sum_gradients
from partitionsel_jax.selection import Problem, Selection, budgets, diagnostics
from partitionsel_jax.selection.budgets import CurriculumState

SIZES = {"N": 12, "K": 4, "P": 3, "A": 5, "M": 7, "B": 6, "D": 10, "L": 2, "I": 3, "O": 2}
DTYPES = {"f32": jnp.float32, "i32": jnp.int32, "bool": jnp.bool_}


def shape_of(text):
    """`f32[N, 2]` -> the shape and dtype that it says."""
    dtype, axes = re.fullmatch(r"(\w+)\[(.*)\]", text).groups()
    sizes = [SIZES.get(axis) or int(axis) for axis in axes.replace(" ", "").split(",") if axis]
    return jax.ShapeDtypeStruct(sizes, DTYPES[dtype])


def problem(**fields):
    given = {"gram": "f32[N, N]"} | fields
    return Problem(alignment="f32[N]", domains="i32[N]", budgets="i32[P]", **given)


EVERYTHING = {
    "losses": "f32[N]",
    "anchor_similarity": "f32[N, A]",
    "norms": "f32[N]",
    "reference_losses": "f32[N]",
    "nuclear_norms": "f32[N]",
    "novelty": "f32[N]",
}


def answer(size="K"):
    return Selection(
        indices=f"i32[{size}]",
        weights=f"f32[{size}]",
        utility="f32[]",
        certificate="f32[]",
        gains=f"f32[{size}]",
        dropped="i32[]",
        candidates="bool[N]",
        budgets="i32[P]",
    )


def select(utility, given, **options):
    size = SIZES["N" if utility == "full" else "K"]
    draw = {"key": jax.random.key(0)}
    return selection.select(given, size=size, utility=utility, **draw, **options)


STATE = CurriculumState("f32[P]", "f32[P]", "f32[P]")
SCOPED = {("layers", "w"): "f32[L, I, O]", ("b",): "f32[D]"}
PARAMETERS = {"layers": {"w": "f32[L, I, O]"}, "b": "f32[D]"}
SCOPE = Scope("full", last_layers=0, layers=2)
SQUARES = {("layers", "w"): ("f32[L, I]", "f32[L, O]"), ("b",): "f32[D]"}
K, P = SIZES["K"], SIZES["P"]
BUDGETS = functools.partial(budgets.proportional, size=K)


def halves(part):
    return part["x"].sum(axis=1), part["n"]


def per_example(parameters, rows):
    return gradients.per_example_features(
        lambda parameters, row: (parameters["w"] * row).sum(),
        parameters,
        rows,
        gradients.make_sketch("srht", SIZES["M"]),
        microbatch=4,
        normalize=True,
    )


def factored(*rows):
    shape = models.DecoderConfig(
        vocab_size=50, layers=2, width=8, mlp_width=8, heads=1, kv_heads=1, head_dim=8
    )
    model = models.Model(shape, models.LoRAConfig(rank=2))
    parameters, scope = model.init(jax.random.key(0)), Scope("lora", last_layers=1, layers=2)
    return gradients.factored_features(
        lambda rows, tap: model.losses(parameters, *rows, scope.stop_below, tap),
        scope.extract(parameters),
        rows,
        gradients.make_sketch("two_sided", SIZES["M"]),
        microbatch=4,
        normalize=True,
    )


# Name: the function, its arguments, its result.
TABLE = {
    **{
        f"select, {utility}": (
            functools.partial(select, utility),
            (problem(**EVERYTHING),),
            answer("N" if utility == "full" else "K"),
        )
        for utility in selection.UTILITIES
    },
    "select from features": (
        functools.partial(select, "gradient_matching", swaps=1, coupling="independent"),
        (problem(gram=None, features="f32[N, M]"),),
        answer(),
    ),
    "certify": (selection.certify, (problem(), answer()), "f32[]"),
    "best_of": (
        lambda given: selection.best_of(given, size=K, restarts=3, key=jax.random.key(0)),
        (problem(),),
        answer(),
    ),
    "proportional": (lambda counts: budgets.proportional(counts, K), ("i32[P]",), "i32[P]"),
    "uniform": (lambda counts: budgets.uniform(counts, K), ("i32[P]",), "i32[P]"),
    "fixed": (lambda *args: budgets.fixed(args[0], K, args[1]), ("i32[P]", "f32[P]"), "i32[P]"),
    "temperature": (
        lambda *args: budgets.temperature(args[0], K, args[1]),
        ("i32[P]", "f32[]"),
        "i32[P]",
    ),
    "curriculum": (
        lambda *args: budgets.curriculum(args[0], K, args[1]),
        ("i32[P]", STATE),
        "i32[P]",
    ),
    "curriculum_start": (lambda: budgets.curriculum_start(P), (), STATE),
    "curriculum_update": (budgets.curriculum_update, (STATE, "f32[P]"), STATE),
    "block_of_picks": (
        diagnostics.block_of_picks,
        ("f32[N, M]", "i32[K]"),
        ("f32[K, K]", "i32[K]"),
    ),
    "effective_sample_size": (diagnostics.effective_sample_size, ("f32[K]",), "f32[]"),
    "conflicting_pairs": (
        diagnostics.conflicting_pairs,
        ("f32[N, N]", "i32[K]"),
        ("i32[]", "f32[]"),
    ),
    "conflicting_weight": (
        diagnostics.conflicting_weight,
        ("f32[N, N]", "i32[K]", "f32[K]"),
        "f32[]",
    ),
    "redundancy": (diagnostics.redundancy, ("f32[N, N]", "i32[K]"), "f32[]"),
    "matching_cosine": (
        diagnostics.matching_cosine,
        ("f32[N, N]", "f32[N]", "i32[K]", "f32[K]", "f32[]"),
        "f32[]",
    ),
    "domain_mix": (
        lambda *args: diagnostics.domain_mix(*args, P),
        ("i32[N]", "i32[K]"),
        "i32[P]",
    ),
    "top_k_overlap": (
        diagnostics.top_k_overlap,
        ("f32[N]", "i32[N]", "i32[P]", "i32[K]"),
        "f32[]",
    ),
    "relative_error": (diagnostics.relative_error, ("f32[N, N]", "f32[N, N]"), "f32[]"),
    "pick_overlap": (diagnostics.pick_overlap, ("i32[K]", "i32[K]"), "f32[]"),
    "submodularity_ratio": (
        diagnostics.submodularity_ratio,
        ("f32[N, N]", "f32[N]", "i32[K]"),
        "f32[]",
    ),
    **{
        f"sketch, {family}": (
            functools.partial(
                gradients.make_sketch(family, 16 if family == "identity" else SIZES["M"]),
                stacked={"w": True, "b": False},
            ),
            ({"w": "f32[B, L, I]", "b": "f32[B, D]"},),
            "f32[B, 16]" if family == "identity" else "f32[B, M]",
        )
        for family in gradients.FAMILIES
    },
    "unit": (gradients.unit, ("f32[B, M]",), "f32[B, M]"),
    "per_example_features": (
        per_example,
        ({"w": "f32[D]"}, "f32[B, D]"),
        gradients.Features("f32[B, M]", "f32[B]", "f32[B]"),
    ),
    "factored_features": (
        factored,
        ("i32[B, D]", "bool[B, D]"),
        gradients.Features("f32[B, M]", "f32[B]", "f32[B]"),
    ),
    "Scope.extract": (SCOPE.extract, (PARAMETERS,), SCOPED),
    "Scope.insert": (SCOPE.insert, (PARAMETERS, SCOPED), PARAMETERS),
    "exact": (lambda *args: preconditioning.exact(*args, 0.99), (SCOPED, "i32[]"), SCOPED),
    "factored": (lambda *args: preconditioning.factored(*args, 0.99), (SCOPED, "i32[]"), SQUARES),
    "expand": (preconditioning.expand, (SQUARES,), SCOPED),
    "map_microbatches": (
        lambda rows, lengths: map_microbatches(
            halves, rows, 4, buckets=Buckets((2, SIZES["D"]), lengths)
        ),
        ({"x": "f32[B, D]", "n": "i32[B]"}, "i32[B]"),
        ("f32[B]", "i32[B]"),
    ),
    "sum_gradients": (
        lambda parameters, rows, lengths: sum_gradients(
            lambda parameters, rows: ((rows.sum(axis=1) * parameters.sum()).sum(),) * 2,
            parameters,
            rows,
            4,
            Buckets((SIZES["D"],), lengths),
        ),
        ("f32[M]", "f32[B, D]", "i32[B]"),
        ("f32[]", "f32[M]"),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_results_have_the_shapes_and_dtypes_that_docstrings_say(name):
    function, arguments, result = TABLE[name]
    found = jax.eval_shape(function, *jax.tree.map(shape_of, arguments))
    expected = jax.tree.map(shape_of, result)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (have.shape, have.dtype) == (want.shape, want.dtype)


def test_every_public_function_that_takes_arrays_has_a_row():
    rows = {name.partition(",")[0] for name in TABLE}
    names = {*selection.__all__, *gradients.__all__} - {"check_choices", "make_sketch", "stacked"}
    names = {name for name in names if inspect.isfunction(getattr(selection, name, None))}
    for module in (budgets, diagnostics, preconditioning):
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__
            names |= {name} if own and not name.startswith("_") else set()
    assert names <= rows
