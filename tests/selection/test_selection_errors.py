"""Every ValueError of `select` says what was expected, what came, and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import make_problem

from partitionsel_jax import selection


def problem_with(**changes):
    problem, _, _ = make_problem(np.random.default_rng(0), 12, 3, 4)
    fields = {name: getattr(problem, name) for name in ("alignment", "gram", "domains", "budgets")}
    return selection.Problem(**(fields | changes))


LOPSIDED = np.eye(12, dtype=np.float32)
LOPSIDED[0, 1] = 0.5


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"alignment": np.zeros((12, 1), np.float32)},
            r"alignment .* shape \[N\], got .*12, 1",
        ),
        ({"alignment": [0.0] * 12}, r"alignment must be an array .* got list"),
        ({"alignment": np.zeros(12, np.int32)}, "alignment must be float32, got int32; convert"),
        ({"gram": np.zeros((12, 11), np.float32)}, r"gram must .* shape \[12, 12\], got .*12, 11"),
        ({"gram": np.zeros((12, 12), np.int32)}, "gram must be float32, got int32"),
        ({"gram": LOPSIDED}, "gram must be symmetric, .* features @ features.T"),
        ({"domains": np.zeros(11, np.int32)}, r"domains must .* shape \[12\], got"),
        ({"domains": np.zeros(12, np.float32)}, "domains must be int32, got float32"),
        ({"domains": np.full(12, 3)}, r"domains must lie in \[-1, 3\) .* got values from 3 to 3"),
        ({"domains": np.full(12, -2)}, r"domains must lie in \[-1, 3\) .* -1 for padding"),
        ({"budgets": np.zeros(0, np.int32)}, "budgets must name at least one domain"),
        ({"budgets": np.array([4.0, 0.0, 0.0])}, "budgets must be int32, got float64"),
        ({"budgets": np.array([5, -1, 0])}, r"budgets must be >= 0, got \[5, -1, 0\]"),
        ({"budgets": np.array([1, 1, 1])}, "budgets must sum to size=4, got .* with sum 3; make"),
        ({"losses": np.zeros(11, np.float32)}, r"losses must .* shape \[12\], got"),
        ({"losses": np.zeros(12, np.int32)}, "losses must be float32, got int32; convert"),
        ({"norms": np.zeros((12, 1), np.float32)}, r"norms must .* shape \[12\], got .*12, 1"),
        ({"norms": [1.0] * 12}, "norms must be an array of shape .* got list"),
        ({"reference_losses": np.zeros(3, np.float32)}, r"reference_losses must .* \[12\], got"),
        ({"anchor_similarity": np.zeros(12, np.float32)}, r"anchor_similarity .* \[12, A\], got"),
        ({"anchor_similarity": np.zeros((11, 2), np.float32)}, r"anchor_similarity .* \[12, A\]"),
        ({"anchor_similarity": np.zeros((12, 2), int)}, "anchor_similarity must be float32, got"),
        ({"anchor_similarity": np.zeros((12, 0), np.float32)}, r"anchor_similarity .* \(12, 0\)"),
        ({"gram": None}, "exactly one of gram and features must be given, got neither"),
        ({"features": np.zeros((12, 4), np.float32)}, "exactly one of gram and .* got both"),
        (
            {"gram": None, "features": np.zeros((11, 4), np.float32)},
            r"features must .* shape \[12, M\], got .*11, 4",
        ),
        ({"gram": None, "features": np.zeros(12, np.float32)}, r"features .* \[12, M\], got"),
        ({"gram": None, "features": np.zeros((12, 4), int)}, "features must be float32, got int"),
        ({"gram": None, "features": np.zeros((12, 0), np.float32)}, r"features .* \(12, 0\)"),
    ],
)
def test_a_malformed_problem_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        selection.select(problem_with(**changes), size=4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size must be a Python integer >= 1 .* got 0"),
        ({"size": True}, "size must be a Python integer >= 1 .* got True"),
        ({"size": 4.0}, "size must be a Python integer >= 1 .* got 4.0"),
        ({"size": 13}, "size must be at most the pool's 12 candidates, got 13; draw a larger"),
        (
            {"utility": "gradmatch"},
            "utility must be one of .*'alignment'.* got 'gradmatch'",
        ),
        ({"coupling": "both"}, "coupling must be one of .*'joint'.* got 'both'"),
        ({"rule": "best"}, "rule must be one of .*'greedy'.* got 'best'"),
        ({"solver": "fast"}, "solver must be one of .*'exact'.* got 'fast'"),
        ({"solver": None}, "solver must be one of .*'published'.* got None"),
        ({"swaps": True}, "swaps must be a Python integer >= 0 .* got True"),
        ({"swaps": -1}, "swaps must be a Python integer >= 0 .* got -1"),
        ({"swaps": 0.5}, "swaps must be a Python integer >= 0 .* got 0.5"),
        ({"utility": "full"}, "size must be the pool's 12 with utility='full', got 4"),
        ({"utility": "alignment", "swaps": 1}, "swaps=1 needs a utility that refits .*'alignment'"),
        (
            {"utility": "random", "rule": "residual_random"},
            "rule='residual_random' needs",
        ),
        ({"utility": "random"}, "key must be given .* got None; pass a jax.random.key"),
        ({"rule": "residual_random"}, "key must be given .* got None"),
        ({"utility": "random", "key": 0}, "key must be given .* got 0; pass a jax.random.key"),
        (
            {"swaps": 2, "solver": "published"},
            "swaps=2 needs solver='exact'.* got solver='published'; use swaps=0",
        ),
        ({"ridge": -0.1}, r"ridge must be a finite scalar in \[0, inf\], got -0.1"),
        ({"ridge": np.nan}, "ridge must be a finite scalar .* got nan"),
        ({"ridge": np.zeros(2)}, r"ridge must be a finite scalar .* got \[0. 0.\]"),
        (
            {"step_scale": 0.0},
            r"step_scale must be a finite scalar in \[0, inf\] without 0, got 0.0",
        ),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        selection.select(problem_with(), **({"size": 4} | options))


TOP_K = ["alignment", "grad_norm", "loss", "lowest_loss", "reducible_loss", "uds", "random", "full"]
UNWEIGHTED = [name for name in selection.UTILITIES if name != "gradient_matching"]


def problem_with_everything():
    ones = np.ones(12, np.float32)
    similarity = np.ones((12, 2), np.float32)
    return problem_with(losses=ones, nuclear_norms=ones, anchor_similarity=similarity)


@pytest.mark.parametrize("utility", TOP_K)
def test_rules_are_refused_for_scores_that_no_pick_changes(utility):
    size = 12 if utility == "full" else 4
    with pytest.raises(ValueError, match=f"rule='residual_random' needs .* utility='{utility}'"):
        selection.select(
            problem_with_everything(), size=size, utility=utility, rule="residual_random"
        )


def test_rules_are_refused_for_no_other_utility():
    assert [name for name in selection.UTILITIES if name not in TOP_K] == [
        name for name, entry in selection.UTILITIES.items() if "residual_random" in entry.rules
    ]


@pytest.mark.parametrize("options", [{"swaps": 1}, {"solver": "published"}], ids=str)
@pytest.mark.parametrize("utility", UNWEIGHTED)
def test_swaps_and_solvers_are_refused_without_weights(utility, options):
    (name, value), *_ = options.items()
    message = f"{name}={value!r} needs .*'gradient_matching'.* got utility='{utility}'; use"
    with pytest.raises(ValueError, match=message):
        selection.select(problem_with_everything(), size=4, utility=utility, **options)


@pytest.mark.parametrize(
    "utility, field",
    [
        ("loss", "losses"),
        ("lowest_loss", "losses"),
        ("reducible_loss", "losses"),
        ("uds", "nuclear_norms"),
        ("anchor_coverage", "anchor_similarity"),
        ("fair_transport", "anchor_similarity"),
    ],
)
def test_a_field_that_the_utility_needs_is_asked_for_by_name(utility, field):
    with pytest.raises(ValueError, match=f"utility='{utility}' needs Problem.{field}, got None"):
        selection.select(problem_with(), size=4, utility=utility)


def test_facility_location_asks_for_the_gram_matrix_by_name():
    problem = problem_with(gram=None, features=np.ones((12, 3), np.float32))
    with pytest.raises(ValueError, match=r"utility='facility_location' needs Problem\.gram, got"):
        selection.select(problem, size=4, utility="facility_location")


def test_traced_swaps_are_refused():
    with pytest.raises(ValueError, match="swaps must be a Python integer"):
        jax.jit(lambda swaps: selection.select(problem_with(), size=4, swaps=swaps))(1)


def test_a_traced_size_is_refused():
    with pytest.raises(ValueError, match="size must be a Python integer"):
        jax.jit(lambda size: selection.select(problem_with(), size=size))(4)


def test_concrete_values_are_checked_inside_jit_too():
    ridge = jnp.float32(-1.0)
    with pytest.raises(ValueError, match="ridge must be a finite scalar"):
        jax.jit(lambda problem: selection.select(problem, size=4, ridge=ridge))(problem_with())


def test_values_are_not_checked_where_they_are_traced():
    budgets = jnp.array([1, 1, 1])
    run = jax.jit(
        lambda budgets: (
            selection.select(problem_with(budgets=budgets), size=4, utility="alignment").indices
        )
    )
    assert run(budgets)[-1] == -1
    with pytest.raises(ValueError, match="gram must be symmetric"):
        jax.jit(
            lambda budgets: selection.select(problem_with(gram=LOPSIDED, budgets=budgets), size=4)
        )(budgets)


def test_agnostic_coupling_does_not_ask_for_budgets_that_sum():
    problem = problem_with(budgets=np.array([1, 1, 1]))
    result = selection.select(problem, size=4, utility="alignment", coupling="agnostic")
    assert np.all(result.indices >= 0)


def test_a_large_gram_matrix_is_sampled_for_symmetry():
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(2, 600, 8)).astype(np.float32)
    fields = {
        "alignment": features[:, 0],
        "domains": np.zeros(600, np.int32),
        "budgets": np.array([4], np.int32),
    }
    sound = selection.Problem(gram=features @ features.T, **fields)
    assert (selection.select(sound, size=4).indices >= 0).all()
    with pytest.raises(ValueError, match="gram must be symmetric"):
        selection.select(selection.Problem(gram=features @ others.T, **fields), size=4)
