"""Every field that a user can set wrongly is refused by name, before anything is built."""

import re

import pytest
from ml_collections import ConfigDict

from partitionsel_jax import selection
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.essentials import config_hash
from partitionsel_jax.training import plan
from partitionsel_jax.training import setup as run_setup


def changed(config, dotted, value):
    *sections, last = dotted.split(".")
    target = config.to_dict()
    whole = target
    for section in sections:
        target = target[section]
    target[last] = value
    return whole


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "selection.utilty",
            "random",
            r"unknown config key 'utilty' in config\.selection \(did you mean 'utility'",
        ),
        ("optimiser", {}, r"unknown config key 'optimiser' \(did you mean 'optimizer'"),
        ("selection.utility", "gradient_match", "did you mean 'gradient_matching'"),
        ("selection.coupling", "pairwise", "selection.coupling must be one of"),
        ("selection.rule", "lazy", "selection.rule must be one of"),
        ("selection.solver", "fast", "selection.solver must be one of"),
        ("selection.curriculum.decay", 1.0, r"selection\.curriculum\.decay must lie in \[0, 1\)"),
        ("selection.curriculum.blend", 1.5, r"selection\.curriculum\.blend must lie in \[0, 1\]"),
        ("selection.curriculum.floor", -0.1, r"selection\.curriculum\.floor must lie in \[0, 1\]"),
        ("selection.curriculum.sharpness", -1.0, "sharpness must be at least 0"),
        (
            "selection.curriculum.speed",
            1.0,
            r"unknown config key 'speed' in config\.selection\.cur",
        ),
        ("selection.utility", "reducible_loss", "needs selection.reference: set it to the folder"),
        ("selection.budgets", "even", "selection.budgets must be one of"),
        ("selection.size", 17, "selection.size=17 picks cannot come from selection.pool=16"),
        ("selection.size", 0, "selection.size must be at least 1"),
        ("selection.utility", "full", "set selection.size=16"),
        ("selection.pool", 81, "exceeds the training split of 80 rows"),
        ("selection.anchors", 7, "multiple of the 2 domains"),
        ("selection.weights", "soft", "selection.weights must be one of"),
        ("selection.weight_cap", 0.5, "weight_cap must be at least 1"),
        ("selection.ridge", -1.0, "selection.ridge must be at least 0"),
        ("features.family", "fourier", "features.family must be one of"),
        ("features.dim", 0, "features.dim must be at least 1"),
        ("features.last_layers", 3, "features.last_layers must lie in 0"),
        ("features.parameters", "lora", "lora.rank > 0"),
        ("lora.targets", ("queries",), "not projections"),
        ("data.tasks", {}, "data.tasks is empty"),
        ("data.validation", 1, "data.validation must be at least 2"),
        ("data.noise.kind", "shuffled", "data.noise.kind must be one of"),
        ("data.noise.share", 1.0, "data.noise.share must lie in"),
        ("model.vocab_size", 200, "smaller than the tokenizer's 259"),
        ("model.dtype", "int8", "model.dtype must be one of"),
        ("optimizer.learning_rate", 0.0, "learning_rate must be > 0"),
        ("optimizer.warmup", 1.0, r"optimizer\.warmup must lie in \[0, 1\)"),
        ("optimizer.schedule", "cosine", "optimizer.schedule must be one of"),
        ("selection.step_scale", 0.0, "step_scale must be > 0"),
        ("seed", -1, "seed must lie in 0"),
        ("model.param_dtype", "bfloat16", "cannot be trained itself"),
        ("training.updates", 0, "training.updates must be at least 1"),
    ],
)
def test_a_wrong_field_is_refused_by_name(tiny, field, value, message):
    with pytest.raises(ValueError, match=message):
        run_settings.parse(changed(tiny, field, value))


def test_fixed_budgets_need_one_share_per_domain_that_sum_to_one(tiny):
    tiny.selection.budgets = "fixed"
    for shares, message in (
        ((), "needs selection.shares"),
        ((0.5, 0.6), "sum to 1"),
        ((1.5, -0.5), "non-negative"),
        ((0.2, 0.3, 0.5), "3 entries for 2 domains"),
    ):
        tiny.selection.shares = shares
        with pytest.raises(ValueError, match=message):
            run_settings.parse(tiny.to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utility": "alignment", "rule": "residual_random"}, "rule='residual_random' needs"),
        ({"utility": "taylor", "swaps": 1}, "swaps=1 needs a utility that refits weights"),
        ({"utility": "taylor", "solver": "published"}, "solver='published' needs a utility"),
        ({"solver": "published", "swaps": 1}, "swaps=1 needs solver='exact'"),
    ],
)
def test_choices_that_make_no_sense_together_are_refused(tiny, change, message):
    tiny.selection.update(change)
    with pytest.raises(ValueError, match=rf"config\.selection: {message}"):
        run_settings.parse(tiny.to_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection.oracle": True, "data.noise.kind": "none"}, "kind='none' .* corrupt some"),
        (
            {
                "selection.oracle": True,
                "data.train_on": "anchors",
                "selection.utility": "random",
            },
            "there are none with .* data.train_on='anchors'",
        ),
        (
            {"selection.oracle": True, "selection.guard": True},
            "takes the corrupted ones out of both",
        ),
        ({"data.train_on": "anchors"}, "compares candidates with anchors"),
        ({"data.filter.share": 0.1}, "say nothing without one another"),
        ({"data.filter.model": "somewhere"}, "say nothing without one another"),
        ({"data.filter.keep": "highest"}, "data.filter.keep must be one of"),
        (
            {
                "data.train_on": "anchors",
                "selection.utility": "random",
                "data.filter": {"model": "somewhere", "share": 0.1, "keep": "lowest"},
            },
            "data.train_on='anchors' trains on none of them",
        ),
        ({"data.target_domains": ("dice",)}, "data.target_domains must be one of"),
        ({"data.target_domains": ("count_bits",)}, "anchor_balance=True needs anchors of every"),
        (
            {
                "data.target_domains": ("count_bits",),
                "selection.anchor_balance": False,
                "selection.budgets": "curriculum",
            },
            "budgets='curriculum' needs anchors of every .* set it to 'anchors'",
        ),
    ],
)
def test_rows_that_would_not_be_those_meant_are_refused(tiny, changes, message):
    config = tiny
    for field, value in changes.items():
        config = ConfigDict(changed(config, field, value))
    with pytest.raises(ValueError, match=message):
        run_settings.parse(config.to_dict())


@pytest.mark.parametrize("utility", ["random", "full"])
def test_curriculum_budgets_are_refused_where_no_loss_is_computed(tiny, utility):
    tiny.selection.update({"utility": utility, "pool": 8, "budgets": "curriculum"})
    with pytest.raises(ValueError, match=f"selection.utility='{utility}' never computes"):
        run_settings.parse(tiny.to_dict())


def test_a_floor_that_the_domains_cannot_all_have_is_refused(tiny):
    tiny.selection.curriculum.floor = 0.6
    run_settings.parse(tiny.to_dict())
    tiny.selection.budgets = "curriculum"
    with pytest.raises(ValueError, match=r"floor=0\.6 for each of 2 domains .* set it to 0\.5"):
        run_settings.parse(tiny.to_dict())


def test_every_utility_has_what_it_reads(tiny):
    tiny.selection.update({"pool": 8, "reference": "somewhere"})
    tiny.features.path = "reference"
    for utility, entry in selection.UTILITIES.items():
        tiny.selection.utility = utility
        chosen = run_settings.parse(tiny.to_dict()).selection
        assert set(entry.needs) <= chosen.reads
        assert not (chosen.needs_features and chosen.needs_forward)


def test_a_missing_field_is_named(tiny):
    config = tiny.to_dict()
    del config["optimizer"]["learning_rate"]
    with pytest.raises(ValueError, match=r"the config lacks optimizer\.learning_rate"):
        run_settings.parse(config)


def test_the_hash_ignores_seed_and_place_and_nothing_else(tiny):
    base = config_hash(tiny.to_dict())
    incidental = {"seed": 5, "data.directory": "x", "training.devices": 2}
    for field, value in (incidental | {"features.fidelity_every": 3}).items():
        assert config_hash(changed(tiny, field, value)) == base
    for field, value in (("selection.ridge", 0.1), ("data.seed", 5), ("training.updates", 9)):
        assert config_hash(changed(tiny, field, value)) != base


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("selection.temperature", float("nan"), "selection.temperature must be a finite number"),
        ("selection.ridge", float("inf"), "selection.ridge must be a finite number, not inf"),
        ("optimizer.learning_rate", float("inf"), "optimizer.learning_rate must be a finite"),
        ("optimizer.b1", 1.5, "optimizer.b1 must lie in [0, 1), not 1.5"),
        ("optimizer.b2", -1.0, "optimizer.b2 must lie in [0, 1), not -1.0"),
        ("optimizer.weight_decay", -1.0, "optimizer.weight_decay must be at least 0"),
        ("lora.alpha", 0.0, "lora.alpha must be > 0"),
        ("model.rope_theta", 0.0, "model.rope_theta must be > 0"),
        ("model.norm_eps", -1.0, "model.norm_eps must be > 0"),
        ("model.chunk_vocab", 0, "model.chunk_vocab must be at least 1"),
        ("model.chunk_tokens", -1, "model.chunk_tokens must be at least 0"),
        ("features.dim", 10**8, "features.dim=100000000 for 24 candidates and anchors takes 8.9"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_field(tiny, field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run_settings.parse(changed(tiny, field, value))


def test_shares_that_are_no_numbers_are_refused(tiny):
    config = tiny.to_dict()
    config["selection"] |= {"budgets": "fixed", "shares": (0.5, "a")}
    with pytest.raises(ValueError, match=r"selection\.shares must be numbers"):
        run_settings.parse(config)


def test_norms_that_a_sketch_only_estimates_are_not_ranked_by(tiny):
    tiny.selection.utility = "grad_norm"
    with pytest.raises(ValueError, match=r"only estimates: set features\.path='reference'"):
        run_settings.parse(tiny.to_dict())
    for exact in ({"path": "reference"}, {"path": "factored", "family": "identity", "dim": 0}):
        tiny.features.update(exact)
        run_settings.parse(tiny.to_dict())


def test_anchors_of_any_number_need_not_be_balanced(tiny):
    tiny.selection.anchors = 7
    with pytest.raises(ValueError, match=r"or set selection\.anchor_balance=False"):
        run_settings.parse(tiny.to_dict())
    tiny.selection.anchor_balance = False
    settings = run_settings.parse(tiny.to_dict())
    setup = run_setup.prepare(settings)
    assert len(setup.pools[0][1].id) == 7


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_sketch_seed_that_no_key_can_hold_is_refused(tiny, seed):
    tiny.features.seed = seed
    with pytest.raises(ValueError, match=r"features\.seed must lie in 0 \.\. 2\^32 - 1"):
        run_settings.parse(tiny.to_dict())


def test_methods_and_repeats_expand_to_runs_of_their_own(tiny):
    tiny.repeats = 2
    tiny.methods.ours = {"selection": {"ridge": 0.5}}
    tiny.methods.random = {"selection": {"utility": "random"}}
    runs = plan.expand(tiny.to_dict())
    assert [(run.method, run.seed, run.folder) for run in runs] == [
        ("ours", 0, "ours/seed0"),
        ("ours", 1, "ours/seed1"),
        ("random", 0, "random/seed0"),
        ("random", 1, "random/seed1"),
    ]
    assert runs[0].config["selection"]["ridge"] == 0.5
    assert runs[2].config["selection"]["utility"] == "random"
    assert runs[3].config["seed"] == 1
    assert runs[2].config["selection"]["ridge"] == 0.0


def test_a_config_without_methods_is_one_run_in_the_workdir_itself(tiny):
    (run,) = plan.expand(tiny.to_dict())
    assert (run.method, run.folder) == ("gradient_matching-joint", "")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"a": {"selection": {"ridg": 1.0}}}, r"methods\.a changes 'selection\.ridg'"),
        ({"a": {"nothing": {"ridge": 1.0}}}, r"methods\.a changes 'nothing\.ridge'"),
        ({"a": {"selection": {"utility": "best"}}}, "selection.utility must be one of"),
    ],
)
def test_a_method_that_changes_no_field_is_refused_before_any_run(tiny, methods, message):
    config = tiny.to_dict() | {"methods": methods}
    with pytest.raises(ValueError, match=message):
        plan.expand(config)


def test_repeats_below_one_are_refused(tiny):
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        plan.expand(tiny.to_dict() | {"repeats": 0})
