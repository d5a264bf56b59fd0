"""The whole step lowers for hardware that is not here: nothing in it is a CPU's alone."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from partitionsel_jax import data
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
    "swaps": {"selection.swaps": 1, "selection.weights": "learned"},
    "published": {"selection.rule": "residual_random", "selection.solver": "published"},
    "transport": {"selection.utility": "fair_transport", "selection.coupling": "independent"},
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
