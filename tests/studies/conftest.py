"""Studies with figures that can be worked out by hand."""

import numpy as np
import pytest

from partitionsel_jax.studies import Result, Study, Trial, records

ABOUT = {"command": "a command", "hardware": "a machine", "pool": "64", "size": "8"}


def make_result(
    method, seed, final, *, axes=None, flops=1.0, updates=40, rate=4e-3, accuracies=None, **numbers
):
    """A run whose loss falls in a straight line from 4 to `final`, at `flops` an update."""
    steps = np.arange(0.0, updates + 1, 10)
    known = {"learning_rate": rate, "updates": updates, "validation_loss": final}
    blank = dict.fromkeys(records.NUMBERS, np.nan)
    return Result(
        method=method,
        axes=axes or {},
        seed=seed,
        numbers={**blank, **known, **numbers},
        accuracies=accuracies or {},
        curve={
            "updates": steps,
            "validation_loss": 4.0 + (final - 4.0) * steps / updates,
            "flops": flops * steps,
            "tokens": 100.0 * steps,
            "seconds": 0.5 * steps,
        },
        about={"config_hash": "abc", "commit": "def", "device": "1 x cpu", "jax": "0.10.2"},
    )


def make_study(claim, results, trials=()):
    return Study(claim, tuple(results), tuple(trials), ABOUT)


@pytest.fixture
def methods():
    """PartitionSel ends 1 below random picks and 0.5 above greats, at four times the cost."""
    results = [
        make_result(method, seed, final + 0.01 * seed, axes={"selection.size": size}, flops=flops)
        for size in (8, 16)
        for method, final, flops in (
            ("partitionsel", 1.0, 4.0),
            ("greats", 0.5, 4.0),
            ("random", 2.0, 1.0),
        )
        for seed in (10, 11, 12)
    ]
    results += [make_result("full", seed, 0.5, flops=8.0) for seed in (10, 11, 12)]
    trials = [
        Trial("greats,size=8", 0.002, np.inf, False),
        Trial("greats,size=8", 0.004, 1.5, True),
    ]
    return make_study("methods", results, trials)


@pytest.fixture
def corrupted():
    """Clean data make no difference; of corrupted answers, PartitionSel needs half the updates."""
    kinds = [{"data.noise.kind": "none"}]
    kinds += [
        {"data.noise.kind": kind, "data.noise.share": share}
        for kind in ("garbled", "swapped")
        for share in (0.15, 0.3)
    ]
    return make_study(
        "corrupted",
        [
            make_result(method, seed, final, axes=axes, flops=flops, corrupted_selected=0.1)
            for axes in kinds
            for method, final, flops in (
                # Half the updates of a straight line from 4 take it half the way.
                ("partitionsel", 2.0 if axes["data.noise.kind"] == "none" else 0.0, 3.0),
                ("random", 2.0, 1.0),
            )
            for seed in (10, 11)
        ],
    )
