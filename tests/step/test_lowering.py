"""The whole step lowers for hardware that is not here: nothing in it is a CPU's alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from partitionsel_jax import data, models
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models.pretrained.presets import PRESETS
from partitionsel_jax.step import costs
from partitionsel_jax.step.step import Step
from tests.step.every_config import RUNS

LENGTH = 10
EVERY_OPTION = {
    "shared": {
        "features.anchors_every": 2,
        "features.preconditioner": "adam_factored",
        "selection.updates_per_pool": 2,
        "selection.budgets": "curriculum",
    },
    "adapters": {"lora.rank": 2, "features.parameters": "lora_b", "training.microbatch": 4},
    "pretrained": {
        "model.rope_scaling": {"kind": "llama3", "factor": 8.0},
        "model.biases": ("q", "k", "v"),
        "model.dtype": "bfloat16",
        "model.param_dtype": "bfloat16",
        "model.remat": "dots",
        "lora.rank": 2,
        "lora.dropout": 0.1,
        "features.parameters": "lora",
    },
    "swaps": {"selection.swaps": 1, "selection.weights": "learned"},
    "published": {"selection.rule": "residual_random", "selection.solver": "published"},
    "transport": {"selection.utility": "fair_transport", "selection.coupling": "independent"},
    "uds": {"selection.utility": "uds", "data.buckets": (7,)},
    "buckets": {"data.buckets": (4, 7), "training.microbatch": 2, "features.anchors_every": 2},
    "reference srht": {"features.path": "reference", "features.family": "srht"},
    "reference sparse": {"features.path": "reference", "features.family": "sparse"},
    "reference fft": {"features.path": "reference", "features.family": "fft"},
}


def shapes(*leading, length=LENGTH):
    def of(dtype, *tail):
        return jax.ShapeDtypeStruct((*leading, *tail), dtype)

    return data.Rows(
        tokens=of(np.int32, length),
        response=of(bool, length),
        domain=of(np.int32),
        id=of(np.int32),
        corrupted=of(bool),
    )


@pytest.mark.parametrize("name", ["defaults", *EVERY_OPTION])
def test_the_step_lowers_for_tpu_and_cuda(tiny, name):
    for dotted, value in EVERY_OPTION.get(name, {}).items():
        section, field = dotted.split(".")
        if isinstance(value, dict):
            tiny[section][field].update(value)
        else:
            tiny[section][field] = value
    step = Step.create(run_settings.parse(tiny.to_dict()))
    inputs = (*jax.eval_shape(step.initial, 0), shapes(16), shapes(8))
    whole, rows = PartitionSpec(), PartitionSpec(spmd.AXIS)
    mapped = jax.shard_map(
        functools.partial(step, seed=np.int32(0)),
        mesh=jax.make_mesh((2,), (spmd.AXIS,), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(whole, whole, rows, rows),
        out_specs=whole,
        check_vma=False,
    )
    exported = jax.export.export(jax.jit(mapped), platforms=["tpu", "cuda"])(*inputs)
    assert exported.platforms == ("tpu", "cuda") and exported.nr_devices == 2


def test_generation_lowers_for_tpu_and_cuda(tiny):
    model = Step.create(run_settings.parse(tiny.to_dict())).model

    def write(parameters, tokens, lengths, stops, key):
        sampling = models.Sampling(0.7, 0.9, key)
        limits = jax.numpy.full_like(lengths, tokens.shape[1])
        return models.continuation(
            model, parameters, tokens, lengths, limits, stops, sampling=sampling
        )

    numbers = jax.ShapeDtypeStruct((2,), np.int32)
    tokens = jax.ShapeDtypeStruct((2, LENGTH), np.int32)
    parameters = jax.eval_shape(model.init, jax.random.key(0))
    inputs = (parameters, tokens, numbers, numbers, jax.random.key(0))
    exported = jax.export.export(jax.jit(write), platforms=["tpu", "cuda"])(*inputs)
    assert exported.platforms == ("tpu", "cuda")


# (form, split weights)
FORMS = [("pmap", False), ("shard_map", False), ("shard_map", True)]
DEVICES = 4


def test_no_config_is_forgotten():
    assert {"quickstart", "smollm2_reasoning", "qwen25_3b_metamath", "llama32_3b_mol"} <= set(RUNS)
    assert {"proxy", "smollm2_17b_by_135m", "qwen25_3b_by_05b", "llama31_8b_by_1b"} <= set(RUNS)


def settings_of(name, form, split, full):
    """A config at its full size; the shape of its checkpoint and its domains need no files."""
    config = RUNS[name].copy_and_resolve_references().to_dict()
    if config["checkpoint"]:
        shape = dataclasses.asdict(PRESETS[config["checkpoint"]].config)
        config["model"] |= {field: shape[field] for field in models.ARCHITECTURE}
    if config["selection"]["proxy"]:
        shape = dataclasses.asdict(PRESETS[config["selection"]["proxy"]].config)
        theirs = {field: shape[field] for field in models.ARCHITECTURE}
        config["proxy"] = {"model": config["model"] | theirs, "lora": config["lora"]}
    if not config["data"]["tasks"]:
        config["data"]["domains"] = [f"domain {number}" for number in range(6)]
    if full:
        config["lora"]["rank"] = 0
        config["features"]["parameters"] = "full"
        config["model"]["param_dtype"] = "float32"
    elif not config["lora"]["rank"]:
        config["lora"]["rank"] = 16
        config["features"]["parameters"] = "lora"
    if split:
        config["model"]["remat"] = "layer"
    if "proxy" in config:
        numerics = ("dtype", "param_dtype", "remat")
        config["proxy"]["model"] |= {field: config["model"][field] for field in numerics}
    if (name, form, full) != ("qwen25_3b_metamath", "pmap", False):
        # Once is enough: each width is a branch, which takes as long as the whole step to lower.
        config["data"]["buckets"] = config["data"]["buckets"][-1:]
    config["training"] |= {"spmd": form, "split_weights": split}
    return run_settings.parse(config)


@pytest.mark.parametrize("full", [False, True], ids=["adapters", "all weights"])
@pytest.mark.parametrize(("form", "split"), FORMS)
@pytest.mark.parametrize("name", RUNS)
def test_every_config_lowers_at_full_size_in_every_form(name, form, split, full):
    settings = settings_of(name, form, split, full)
    step, layout = Step.create(settings, DEVICES), spmd.Layout.first(DEVICES, form, split)
    leading = (
        (lambda count: (DEVICES, count // DEVICES)) if form == "pmap" else (lambda count: (count,))
    )
    chosen, length = settings.selection, settings.data.length
    state, frozen, others = costs.shapes(step)
    arguments = (
        *(state, frozen),
        shapes(*leading(chosen.pool), length=length),
        shapes(*leading(chosen.anchors), length=length),
        *(jax.ShapeDtypeStruct((), np.int32), others),
    )
    mapped = layout.map(step.__call__, step.KINDS, donate=(0,), returns_first=True)
    # What pmap returns is jitted inside.
    program = jax.jit(mapped.jitted(*arguments))
    exported = jax.export.export(program, platforms=["tpu", "cuda"])(*arguments)
    assert exported.platforms == ("tpu", "cuda") and exported.nr_devices == DEVICES
