"""configs/reproduce: every claim's runs pass all checks at every scale."""

import importlib
import itertools
import pkgutil

import pytest

from configs import reproduce
from configs.reproduce import scales
from partitionsel_jax import sweeps
from partitionsel_jax.studies import claims

CLAIMS = sorted(
    module.name
    for module in pkgutil.iter_modules(reproduce.__path__)
    if module.name not in ("published", "scales")
)


EVERYWHERE = [claim for claim in CLAIMS if claim not in claims.AT_BYTES]


def config_of(claim, text):
    return importlib.import_module(f"configs.reproduce.{claim}").get_config(text).to_dict()


@pytest.mark.parametrize(
    ("scale", "claim"),
    [
        *itertools.product(["smollm2", "metamath", "molecules"], EVERYWHERE),
        *itertools.product(["bytes"], claims.AT_BYTES),
    ],
)
def test_small_variants_are_two_to_four_runs_that_pass_all_checks(scale, claim):
    runs = sweeps.planned(config_of(claim, f"scale={scale},smoke"))
    assert 2 <= len(runs) <= 4
    # What is to be short has 0.4 of the updates.
    assert {run.config["training"]["updates"] for run in runs} in ({4}, {4, 1})


@pytest.mark.parametrize("claim", CLAIMS)
def test_studies_report_seeds_that_chose_nothing(claim):
    config = config_of(claim, "seeds=3")
    runs = sweeps.planned(config)
    trials = [run for run in runs if run.folder.startswith("tuning/")]
    assert {run.seed for run in trials} == set(scales.TRIAL_SEEDS)
    assert not any(run.config["evaluation"]["test"] for run in trials)
    reported = [run for run in runs if run not in trials]
    assert {run.seed for run in reported} == {10, 11, 12}
    assert all(run.config["evaluation"]["test"] for run in reported)
    # Nothing but tuning separates the methods: the same grid for each.
    rates = {run.config["optimizer"]["learning_rate"] for run in trials}
    assert len(trials) % (len(rates) * len(scales.TRIAL_SEEDS)) == 0 and len(rates) == 3
    # Where something is tuned, those that need a run follow it at once.
    untuned = sweeps.planned(config_of(claim, "seeds=3,tune=False"))
    assert sorted(untuned, key=lambda run: run.folder) == sorted(reported, key=lambda r: r.folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scale=huge", "expected scale to be one of"),
        ("path=FILE", "scale=bytes takes no path"),
        ("sizes=3", "unknown config argument 'sizes'"),
    ],
)
def test_what_a_scale_does_not_take_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        config_of("methods", text)


@pytest.mark.parametrize("claim", claims.AT_BYTES)
def test_a_study_of_bytes_is_refused_at_another_scale(claim):
    with pytest.raises(ValueError, match="scale=smollm2: the small model of this study"):
        config_of(claim, "scale=smollm2,smoke")
