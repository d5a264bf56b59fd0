"""The forms of the step: mapped by pmap or shard_map, weights whole or split, do the same."""

import functools

import jax
import numpy as np
import pytest

from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.microbatches import Buckets
from partitionsel_jax.step import programs
from partitionsel_jax.step.state import fingerprint
from partitionsel_jax.step.step import Step
from tests.step.test_step import random_rows
from tests.tiny_runs import tiny_config

OPTIONS = {
    "full": {"training.microbatch": 2, "features.last_layers": 0},
    "adapters": {
        "lora.rank": 2,
        "features.parameters": "lora",
        "model.remat": "dots",
    },
    "buckets": {"data.buckets": (4, 7), "training.microbatch": 2, "features.microbatch": 2},
}
# The first of them, and others that do the same.
EVERY_FORM = [("pmap", 1, False), ("shard_map", 2, False), ("shard_map", 4, True)]
FORMS = {
    "full": EVERY_FORM,
    "adapters": EVERY_FORM,
    "buckets": [("pmap", 1, False), ("shard_map", 2, True)],
}


def settings_of(config, options):
    config.model.remat = "layer"
    for dotted, value in options.items():
        section, field = dotted.split(".")
        config[section][field] = value
    return config


def uneven_rows(count, seed):
    """Rows whose last columns are padding, more in some than in others."""
    rows = random_rows(count, seed)
    place, ends = np.arange(rows.tokens.shape[1]), 3 + np.arange(count)[:, None] % 8
    return rows._replace(response=(place < ends) & (place >= np.minimum(ends - 2, 5)))


@functools.cache
def run(name, form, devices, split):
    """The last state, the frozen parameters and the records of three updates."""
    config = settings_of(tiny_config(), OPTIONS[name])
    config.training.update({"spmd": form, "split_weights": split})
    step = Step.create(run_settings.parse(config.to_dict()), devices)
    layout = spmd.Layout.first(devices, form, split)
    program = layout.map(step.__call__, step.KINDS[:5], returns_first=True)
    state, frozen = layout.place(step.initial(1))
    records = []
    for t in range(3):
        rows = (layout.rows(uneven_rows(*of)) for of in ((16, t), (8, 10 + t)))
        state, record = program(state, frozen, *rows, np.int32(0))
        records.append(jax.device_get(record))
    return state, frozen, records


@pytest.mark.parametrize("name", OPTIONS)
def test_every_form_makes_the_same_updates(name):
    (whole, _, expected), *others = [run(name, *form) for form in FORMS[name]]
    for state, _, records in others:
        for mine, theirs in zip(records, expected, strict=True):
            assert mine["ids"].tolist() == theirs["ids"].tolist()
            for field in ("loss", "gradient_norm", "update_norm", "utility"):
                np.testing.assert_allclose(mine[field], theirs[field], rtol=2e-5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5),
            jax.device_get(state.parameters),
            jax.device_get(whole.parameters),
        )


@pytest.mark.parametrize("name", OPTIONS)
def test_split_weights_leave_each_device_its_part_of_matrices_and_moments(name):
    form = FORMS[name][-1]
    state, frozen, _ = run(name, *form)
    held = total = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path((state, frozen))[0]:
        part = leaf.addressable_shards[0].data.size
        is_matrix = str(getattr(path[-1], "key", "")) in ("kernel", "embedding", "head")
        assert part == (leaf.size // form[1] if is_matrix else leaf.size), path
        held, total = held + part, total + leaf.size
    assert held < 1.6 / form[1] * total


def test_devices_that_gather_weights_take_the_same_widths():
    """Another branch of the switch is another collective, which the others never come to."""
    lengths = np.array([1, 2, 3, 3, 1, 9, 2, 2], np.int32)

    def choices(gathers):
        axis = spmd.AXIS if gathers else None
        program = spmd.Layout.first(4, "shard_map").map(
            lambda part: spmd.gather(Buckets((4, 10), part, axis_name=axis).choices(2)), ("rows",)
        )
        return np.asarray(program(lengths)).tolist()

    assert choices(False) == [0, 0, 1, 0] and choices(True) == [1, 1, 1, 1]


def test_answers_of_different_lengths_end_on_every_device_that_gathers_weights(tiny):
    tiny.training.update({"spmd": "shard_map", "split_weights": True})
    settings = run_settings.parse(settings_of(tiny, {}).to_dict())
    tokens, lengths = random_rows(8, 3).tokens, np.array([2, 3, 10, 10, 9, 10, 10, 10], np.int32)
    found = []
    for devices in (1, 4):
        step, layout = Step.create(settings, devices), spmd.Layout.first(devices, "shard_map", True)
        state, frozen = layout.place(step.initial(1))
        rows = layout.rows(tokens), layout.rows(lengths)
        generate = programs.evaluators(step.model, layout).generate
        found.append(np.asarray(generate(state.parameters, frozen, *rows, np.zeros(1, np.int32))))
    np.testing.assert_array_equal(*found)


def test_placing_and_the_fingerprint_do_not_depend_on_the_layout(tiny):
    step = Step.create(run_settings.parse(tiny.to_dict()))
    state = step.initial(1)
    for devices in (1, 2, 4):
        layout = spmd.Layout.first(devices, "shard_map", True)
        assert int(fingerprint(layout.place(state))) == int(fingerprint(state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.spmd": "pjit"}, r"training.spmd must be one of \['pmap', 'shard_map'\]"),
        ({"training.spmd": "pmap"}, "needs training.spmd='shard_map', not 'pmap'"),
        ({"model.remat": "none"}, "would keep every layer"),
        ({"features.path": "reference"}, "features.path='reference' needs whole gradients"),
        ({"features.preconditioner": "adam_factored"}, "features.preconditioner="),
        ({"features.fidelity_every": 2, "features.fidelity_rows": 8}, "features.fidelity_every=2"),
    ],
)
def test_what_split_weights_cannot_do_is_refused(tiny, changes, message):
    tiny.training.update({"spmd": "shard_map", "split_weights": True})
    config = settings_of(tiny, changes)
    with pytest.raises(ValueError, match=message):
        run_settings.parse(config.to_dict())
