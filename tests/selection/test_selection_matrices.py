"""Matrices in files: what is read is what was written, in whatever form, and never all at once."""

import json

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from safetensors.numpy import save_file

from partitionsel_jax import offline
from partitionsel_jax.offline.matrices import open_matrix, read_values

ROWS, DIM = 57, 6
FEATURES = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)


def column(values, kind=None):
    return pa.array([row.tolist() for row in values], kind or pa.list_(pa.float32()))


def npy(folder):
    np.save(folder / "F.npy", FEATURES)
    return "F.npy"


def npy_bfloat16(folder):
    np.save(folder / "F.npy", FEATURES.astype(jnp.bfloat16))
    return "F.npy"


def tensor(folder):
    save_file({"grads": FEATURES, "other": FEATURES[:3]}, folder / "F.safetensors")
    return "F.safetensors:grads"


def tensor_alone(folder):
    save_file({"grads": FEATURES.astype(np.float16)}, folder / "F.safetensors")
    return "F.safetensors"


def tensor_bfloat16(folder):
    save_file({"grads": FEATURES.astype(jnp.bfloat16)}, folder / "F.safetensors")
    return "F.safetensors:grads"


def lists(folder):
    table = pa.table({"id": [str(i) for i in range(ROWS)], "grad": column(FEATURES)})
    parquet.write_table(table, folder / "F.parquet", row_group_size=10)
    return "F.parquet:grad"


def fixed_lists(folder):
    table = pa.table({"grad": column(FEATURES, pa.list_(pa.float32(), DIM))})
    parquet.write_table(table, folder / "F.parquet", row_group_size=7)
    return "F.parquet"


FORMS = [npy, npy_bfloat16, tensor, tensor_alone, tensor_bfloat16, lists, fixed_lists]


@pytest.mark.parametrize("form", FORMS)
def test_slices_are_the_rows_that_were_written(tmp_path, form):
    matrix = open_matrix("features", str(tmp_path / form(tmp_path)))
    assert matrix.shape == (ROWS, DIM)
    for start, stop in ((0, ROWS), (0, 1), (9, 31), (ROWS - 1, ROWS), (5, 5)):
        found = np.asarray(matrix[start:stop]).astype(np.float32)
        expected = FEATURES[start:stop].astype(matrix.dtype).astype(np.float32)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", [tensor_bfloat16, lists])
def test_picks_come_with_ids_and_domains_may_be_texts(tmp_path, form):
    features = str(tmp_path / form(tmp_path))
    np.save(tmp_path / "A.npy", FEATURES[:4])
    names = [("b", "a", "c")[i % 3] for i in range(ROWS)]
    about = pa.table({"row": [f"row-{i}" for i in range(ROWS)], "topic": names})
    parquet.write_table(about, tmp_path / "about.parquet")
    folder = offline.select_files(
        features,
        size=9,
        anchors=str(tmp_path / "A.npy"),
        domains=str(tmp_path / "about.parquet:topic"),
        ids=str(tmp_path / "about.parquet:row"),
        budgets="counts:2,3,4",
        output=str(tmp_path / "picks"),
    )
    indices = np.load(folder / "indices.npy")
    ids = json.loads((folder / "ids.json").read_text())
    assert ids == [f"row-{i}" for i in indices]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["domain_names"] == ["a", "b", "c"]
    assert [sum(names[i] == name for i in indices) for name in "abc"] == [2, 3, 4]


def test_values_of_rows_are_read_whole(tmp_path):
    parquet.write_table(pa.table({"n": [3, 1, 2]}), tmp_path / "n.parquet")
    assert read_values("ids", str(tmp_path / "n.parquet")).tolist() == [3, 1, 2]
    np.save(tmp_path / "n.npy", np.arange(4))
    assert read_values("ids", str(tmp_path / "n.npy")).tolist() == [0, 1, 2, 3]


def write(path, **columns):
    parquet.write_table(pa.table(columns), path, row_group_size=2)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (tensor, "F.safetensors", "holds several: name one as F.safetensors:NAME, of grads, other"),
        (tensor, "F.safetensors:none", "holds no 'none': name one as"),
        (lists, "F.parquet", "holds several: name one as F.parquet:NAME, of grad, id"),
        (lists, "F.parquet:id", "column 'id' holds string, no lists of numbers"),
        (lambda folder: write(folder / "F.parquet", g=[[1.0], [1.0, 2.0]]), "F.parquet", "1 to 2"),
        (
            lambda folder: write(folder / "F.parquet", g=[[1.0], [1.0], [1.0, 2.0]]),
            "F.parquet",
            "holds lists of 1 and of 2 numbers",
        ),
        (
            lambda folder: write(folder / "F.parquet", g=[[1.0], None]),
            "F.parquet",
            "lacks numbers in",
        ),
        (lambda folder: None, "F.parquet", "F.parquet"),
        (lambda folder: None, "F.safetensors", "F.safetensors"),
        (lambda folder: (folder / "F.parquet").write_text("x"), "F.parquet", "cannot be read"),
        (
            lambda folder: (folder / "F.safetensors").write_text("x"),
            "F.safetensors",
            "cannot be read",
        ),
        (
            lambda folder: save_file({"g": np.zeros(3, np.float32)}, folder / "F.safetensors"),
            "F.safetensors",
            r"must be a matrix of shape \[rows, dimension\]",
        ),
    ],
)
def test_what_is_no_matrix_is_refused_by_its_name(tmp_path, make, name, message):
    make(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as error:
        matrix = open_matrix("features", str(tmp_path / name))
        matrix[0 : matrix.shape[0]]
    assert "\n" not in str(error.value)


def test_ids_and_domains_need_a_value_in_every_row(tmp_path):
    features = str(tmp_path / npy(tmp_path))
    write(tmp_path / "i.parquet", i=["a", None])
    with pytest.raises(ValueError, match=r"ids: .* has no value in 1 rows"):
        offline.select_files(features, size=3, utility="random", ids=str(tmp_path / "i.parquet"))
    write(tmp_path / "i.parquet", i=["a", "b"])
    for name in ("ids", "domains"):
        given = {name: str(tmp_path / "i.parquet")}
        with pytest.raises(ValueError, match=rf"{name} must be .*shape \({ROWS},\)"):
            offline.select_files(features, size=3, utility="random", **given)
