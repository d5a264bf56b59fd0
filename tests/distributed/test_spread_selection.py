"""Rows that several processes hold are selected as one process selects them, index for index."""

import json

import numpy as np
import pytest

from partitionsel_jax import offline
from partitionsel_jax.offline.exchange import Exchange
from tests.distributed.launching import ended, environment, rendezvous, start

ROWS, DIM = 1003, 24


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Features with ties and rows that are not finite, anchors, and three domains."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    signal = rng.normal(size=DIM)
    features = (rng.normal(size=(ROWS, DIM)) + signal).astype(np.float32)
    features[600:] = features[: ROWS - 600]  # equal rows on different processes
    features[[3, 700]] = np.nan
    np.save(folder / "F.npy", features)
    np.save(folder / "A.npy", (rng.normal(size=(9, DIM)) + signal).astype(np.float32))
    np.save(folder / "D.npy", rng.integers(0, 3, ROWS))
    return folder


def together(folder, count, output, *flags):
    """Runs experiments.select in so many processes, and gives what each said."""
    paths = {"features": "F", "anchors": "A", "domains": "D"}
    arguments = [f"--{name}={folder / file}.npy" for name, file in paths.items()]
    started = [
        start("experiments.select", *arguments, f"--output={output}", *flags, **variables)
        for variables in (environment(1, **told) for told in rendezvous(count))
    ]
    with ended(started):
        said = [process.communicate(timeout=240)[0] for process in started]
        assert [process.returncode for process in started] == [0] * count, said
    return said


@pytest.mark.parametrize(
    ("count", "utility", "more"),
    [
        (2, "gradient_matching", {}),
        (4, "gradient_matching", {"block": 10, "chunk_rows": 37}),
        (2, "taylor", {"coupling": "independent"}),
        (2, "random", {}),
        (2, "facility_location", {"shortlist_rows": 9}),
    ],
)
def test_picks_are_those_of_one_process(files, tmp_path, count, utility, more):
    flags = [f"--utility={utility}", "--size=40", "--budgets=uniform"]
    flags += [f"--{name}={value}" for name, value in more.items()]
    said = together(files, count, tmp_path / "picks", *flags)
    indices, weights = (np.load(tmp_path / "picks" / f"{n}.npy") for n in ("indices", "weights"))
    reading = {name: more[name] for name in ("chunk_rows", "shortlist_rows") if name in more}
    whole = offline.select(
        *(np.load(files / f"{name}.npy") for name in "FAD"),
        size=40,
        budgets=offline.files.parse_budgets("uniform"),
        utility=utility,
        reading=offline.Reading(**reading),
        **{name: value for name, value in more.items() if name not in reading},
    )
    np.testing.assert_array_equal(indices, whole.indices)
    np.testing.assert_allclose(weights, whole.weights, rtol=1e-4, atol=1e-6)
    summary = json.loads((tmp_path / "picks" / "summary.json").read_text())
    assert summary["dropped"] == whole.dropped == 2
    assert sum("rows picked in" in text for text in said) == 1


def test_one_process_exchanges_nothing():
    alone = Exchange.of(7, spread=True)
    values = np.arange(7)
    assert alone.of_all_rows(values) is values
    assert (alone.total, alone.first) == (7, 0)
