"""Studies with figures that can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from partitionsel_jax.studies import Study, records

ABOUT = {"command": "a command", "hardware": "a machine", "pool": "64", "size": "8"}


def make_run(method, seed, final, *, axes=None, flops=1.0, updates=40, rate=4e-3, **numbers):
    """A run whose loss falls in a straight line from 4 to `final`, at `flops` an update."""
    steps = np.arange(0.0, updates + 1, 10)
    known = {"learning_rate": rate, "updates": updates, "validation_loss": final}
    row = {
        **{"method": method, **(axes or {}), "seed": seed},
        **{**dict.fromkeys(records.NUMBERS, np.nan), **known, **numbers},
        **{"config_hash": "abc", "commit": "def", "device": "1 x cpu", "jax": "0.10.2"},
    }
    curve = {
        "updates": steps,
        "validation_loss": 4.0 + (final - 4.0) * steps / updates,
        "tokens": 100.0 * steps,
        "flops": flops * steps,
        "seconds": 0.5 * steps,
    }
    return row, pd.DataFrame(curve)


def make_study(claim, made, trials=(), answers=()):
    """A study of runs; answers are (run, domain, questions, accuracy)."""
    rows = [{"run": number, **row} for number, (row, _) in enumerate(made)]
    axes = list(dict.fromkeys(name for row in rows for name in row if "." in name))
    names = ["run", "method", *axes, "seed", *records.NUMBERS, *records.FACTS]
    names += [records.GUARD] * any(records.GUARD in row for row in rows)
    cells = [[row.get(name) for name in names] for row in rows]
    runs = pd.DataFrame(cells, columns=names).astype(dict.fromkeys(axes, object))
    for axis in axes:
        runs[axis] = pd.Series([row.get(axis) for row in rows], dtype=object)
    curves = [curve.assign(run=number) for number, (_, curve) in enumerate(made)]
    order = ["run", *curves[0].columns[:-1]]
    return Study(
        claim,
        runs.astype(dict.fromkeys(records.NUMBERS, float)),
        pd.concat(curves, ignore_index=True)[order],
        pd.DataFrame(answers, columns=records.ANSWERS),
        pd.DataFrame(trials, columns=records.TRIED),
        ABOUT,
    )


def groups_of(*made):
    """The runs of each method, as the measures take them."""
    results = make_study("methods", made).results.set_index("seed", drop=False)
    return {method: group for method, group in results.groupby("method")}


@pytest.fixture
def methods():
    """PartitionSel ends 1 below random picks and 0.5 above greats, at four times the cost."""
    made = [
        make_run(method, seed, final + 0.01 * seed, axes={"selection.size": size}, flops=flops)
        for size in (8, 16)
        for method, final, flops in (
            ("partitionsel", 1.0, 4.0),
            ("greats", 0.5, 4.0),
            ("random", 2.0, 1.0),
        )
        for seed in (10, 11, 12)
    ]
    made += [make_run("full", seed, 0.5, flops=8.0) for seed in (10, 11, 12)]
    trials = [("greats,size=8", 0.002, np.inf, 0), ("greats,size=8", 0.004, 1.5, 1)]
    return make_study("methods", made, trials)


@pytest.fixture
def noise():
    """Clean data make no difference; of corrupted answers, PartitionSel needs half the updates."""
    kinds = [{"data.noise.kind": "none"}]
    kinds += [
        {"data.noise.kind": kind, "data.noise.share": share}
        for kind in ("garbled", "swapped")
        for share in (0.15, 0.3)
    ]
    made = [
        make_run(method, seed, final, axes=axes, flops=flops, corrupted_selected=0.1)
        for axes in kinds
        for method, final, flops in (
            # Half the updates of a straight line from 4 take it half the way.
            ("partitionsel", 2.0 if axes["data.noise.kind"] == "none" else 0.0, 3.0),
            ("random", 2.0, 1.0),
        )
        for seed in (10, 11)
    ]
    return make_study("noise", made, answers=[(0, "chain_sum", 3, 0.5), (0, "dice", 1, 1.0)])
