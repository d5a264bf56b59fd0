"""The whole step lowers for hardware that is not here: nothing in it is a CPU's alone."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from partitionsel_jax import data, models
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training import spmd
from partitionsel_jax.training.step import Step

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
    "buckets": {"data.buckets": (4, 7), "training.microbatch": 2, "features.anchors_every": 2},
    "reference srht": {"features.path": "reference", "features.family": "srht"},
    "reference sparse": {"features.path": "reference", "features.family": "sparse"},
    "reference fft": {"features.path": "reference", "features.family": "fft"},
}


def shapes(count):
    def of(dtype, *tail):
        return jax.ShapeDtypeStruct((count, *tail), dtype)

    return data.Rows(
        tokens=of(np.int32, LENGTH),
        response=of(bool, LENGTH),
        domain=of(np.int32),
        id=of(np.int32),
        spoilt=of(bool),
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
