"""An ablation's runs: which there are, what they are called, and what is refused before any run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.ablations import budgets, features, forward_only, utilities
from partitionsel_jax import selection
from partitionsel_jax.config import relevance
from partitionsel_jax.config.axes import name_of
from partitionsel_jax.step.candidates import update_weights
from partitionsel_jax.training import plan


def names(config):
    return [point.name for point in plan.survey(config.to_dict()).points]


def test_axes_give_a_run_for_every_combination_and_seed(tiny):
    tiny.axes.selection = {"size": (4, 8), "budgets": ("proportional", "uniform")}
    tiny.axes.seed = (7, 9)
    runs = plan.expand(tiny.to_dict())
    assert [run.folder for run in runs[:3]] == [
        "gradient_matching-joint,budgets=proportional,size=4/seed7",
        "gradient_matching-joint,budgets=proportional,size=4/seed9",
        "gradient_matching-joint,budgets=proportional,size=8/seed7",
    ]
    assert len(runs) == 8
    for run in runs:
        assert run.axes == {
            "selection.budgets": run.config["selection"]["budgets"],
            "selection.size": run.config["selection"]["size"],
        }


def test_a_longer_axis_renames_no_run(tiny):
    tiny.axes.selection = {"utility": ("taylor", "random"), "step_scale": (1.0,)}
    before = names(tiny)
    tiny.axes.selection = {"utility": ("loss", "random", "taylor"), "step_scale": (0.1, 1.0)}
    assert set(before) < set(names(tiny))


def test_what_a_method_does_not_read_or_sets_itself_is_not_varied(tiny):
    tiny.methods.taylor = {"selection": {"utility": "taylor"}}
    tiny.methods.random = {"selection": {"utility": "random", "rule": "greedy"}}
    tiny.axes.selection = {"step_scale": (0.1, 1.0), "rule": ("greedy", "residual_random")}
    found = plan.survey(tiny.to_dict())
    assert [point.name for point in found.points] == [
        "random",
        "taylor,rule=greedy,step_scale=0.1",
        "taylor,rule=greedy,step_scale=1.0",
        "taylor,rule=residual_random,step_scale=0.1",
        "taylor,rule=residual_random,step_scale=1.0",
    ]
    assert found.left_out[-1].startswith("5 combinations are run, 0 make no sense, and 1 would")


def test_combinations_that_make_no_sense_are_left_out_aloud(tiny):
    tiny.axes.selection = {
        "utility": ("taylor", "alignment"),
        "rule": ("greedy", "residual_random"),
    }
    found = plan.survey(tiny.to_dict())
    assert len(found.points) == 3
    assert "alignment-joint,rule=residual_random: config.selection: rule=" in found.left_out[0]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"selection": {"utilty": ("taylor",)}}, r"axes\.selection\.utilty is no field .*'select"),
        ({"selektion": {"utility": ("taylor",)}}, r"axes\.selektion\.utility is no field"),
        ({"selection": {"curriculum": (1,)}}, r"axes\.selection\.curriculum is no field"),
        ({"selection": {"utility": "taylor"}}, r"must list at least one value, .*'taylor'"),
        ({"selection": {"size": ()}}, "must list at least one value"),
        ({"selection": {"size": (4, 4)}}, "lists 4 twice"),
        ({"selection": {"size": (4, 99)}}, r"axes\.selection\.size=99 fits no run: selection\.siz"),
        ({"selection": {"utility": ("taylor", "tailor")}}, r"='tailor' fits .*did you mean 'tayl"),
        ({"selection": {"step_scale": (0.1, 1.0)}}, r"step_scale=0\.1 changes no run"),
        ({"selection": {"coupling": ("joint", "wide")}}, r"coupling='wide' fits no run"),
        ({"training": {"devices": (1, 2)}}, "changes nothing that a run computes"),
        ({"seed": (1, 1)}, "lists 1 twice"),
        ({"seed": (1, -1)}, "seed must lie in 0"),
    ],
)
def test_an_axis_that_fits_nothing_is_refused_by_name(tiny, axes, message):
    with pytest.raises(ValueError, match=message):
        plan.survey(tiny.to_dict() | {"axes": axes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"grid": {"optimizer": {"learning_rate": (1e-3,)}}}}, "needs a grid and seeds"),
        ({"tune": {"seeds": (1,)}}, "got seeds alone"),
        ({"tune": {"seeds": (0,), "grid": {"optimizer": {"clip": (1.0,)}}}}, "share 0"),
        ({"tune": {"seeds": (1,), "grid": {"optimizer": {"clp": (1.0,)}}}}, "did you mean"),
        ({"tune": {"seeds": (1,), "grid": {"optimizer": {"clip": (0.0,)}}}}, "clip must be > 0"),
        ({"tune": {"seeds": (1,), "grid": {"seed": (3,)}}}, "cannot be chosen"),
        ({"tune": {"seed": 1}}, r"tune\.seed is unknown"),
        ({"repeats": 2, "axes": {"seed": (1,)}}, "both give seeds"),
    ],
)
def test_tuning_that_could_not_be_honest_is_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        plan.survey(tiny.to_dict() | changes)


def test_trials_leave_the_test_split_alone_and_are_marked(tiny):
    tiny.tune.grid = {"optimizer": {"learning_rate": (1e-3, 2e-3)}}
    tiny.tune.seeds = (1, 2)
    (point,) = plan.survey(tiny.to_dict()).points
    trial = point.trial(1, {"optimizer.learning_rate": 1e-3})
    assert trial.folder == "tuning/gradient_matching-joint,learning_rate=0.001/seed1"
    assert trial.trial and not trial.config["evaluation"]["test"]
    run = point.run(0, {"optimizer.learning_rate": 2e-3})
    assert not run.trial and run.config["evaluation"]["test"]
    assert run.config["optimizer"]["learning_rate"] == 2e-3
    assert run.folder == "gradient_matching-joint/seed0"
    with pytest.raises(ValueError, match=r"use that, or empty config\.tune\.seeds"):
        plan.expand(tiny.to_dict())


def test_different_values_have_different_names():
    values = ["a/b", "a-b", "a b", ("a", "b"), 0.1, "0.2", "x" * 50, "x" * 51, (1,), None]
    assert len({name_of(value) for value in values}) == len(values)
    assert name_of(0.001) == "0.001" and name_of("taylor") == "taylor"
    assert all("/" not in name_of(value) for value in values)


@pytest.mark.parametrize("arguments", ["seeds=2", "smoke"])
def test_forward_only_choosers_are_runs_side_by_side(arguments):
    runs = plan.expand(forward_only.get_config(arguments).to_dict())
    utilities = {run.config["selection"]["utility"] for run in runs}
    assert utilities == {"random", "loss", "uds", "gradient_matching"}


@pytest.mark.parametrize("module", [utilities, budgets, features])
@pytest.mark.parametrize("arguments", ["", "smoke", "smoke,tune"])
def test_the_ablations_of_the_repository_expand(module, arguments):
    found = plan.survey(module.get_config(arguments).to_dict())
    assert len(found.points) >= 3
    assert bool(found.trial_seeds) == ("tune" in arguments)


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(0), 3)
    features_NxM = jax.random.normal(keys[0], (12, 6))
    return selection.Problem(
        alignment=features_NxM @ jax.random.normal(keys[1], (6,)),
        gram=features_NxM @ features_NxM.T,
        domains=jnp.arange(12, dtype=jnp.int32) % 2,
        budgets=jnp.array([2, 2]),
        losses=jax.random.uniform(keys[2], (12,)),
        anchor_similarity=features_NxM @ features_NxM[:3].T,
        nuclear_norms=jax.random.uniform(keys[2], (12,)),
    )


@pytest.mark.parametrize("utility", sorted(set(selection.UTILITIES) - {"full"}))
def test_what_is_not_read_changes_no_pick(problem, utility, tiny):
    def picks(**options):
        return selection.select(problem, size=4, utility=utility, key=jax.random.key(1), **options)

    config = tiny.to_dict()
    config["selection"] |= {"utility": utility, "coupling": "independent"}
    whole = picks(coupling="independent")
    merged = picks(coupling=relevance.merged_coupling(config))
    assert merged.indices.tolist() == whole.indices.tolist()
    if not relevance.is_read("selection.step_scale", config):
        assert picks(coupling="independent", step_scale=9.0).indices.tolist() == list(whole.indices)
    if not relevance.is_read("selection.ridge", config):
        assert picks(coupling="independent", ridge=9.0).indices.tolist() == list(whole.indices)
    if not relevance.is_read("selection.weights", config):
        picked = whole.indices >= 0
        for scheme in ("learned", "clipped"):
            weights = update_weights(picked, whole.weights, scheme, 3.0)
            np.testing.assert_array_equal(weights, picked)
