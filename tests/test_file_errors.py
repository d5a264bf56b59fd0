"""Whatever goes wrong while a file is read is one line that names it."""

import os

import pytest

from partitionsel_jax import json_files
from partitionsel_jax.file_errors import reading


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "more memory than there is"),
        (OverflowError("int too large\nto convert"), "int too large to convert"),
        (KeyError("weights"), "KeyError: 'weights'"),
        (AttributeError(), "AttributeError"),
        (ValueError("odd"), "(odd)"),
        (OSError("no errno, no file"), "no errno, no file"),
    ],
)
def test_any_exception_becomes_one_line_with_the_name_of_the_file(tmp_path, raised, said):
    with pytest.raises(ValueError) as caught, reading(tmp_path / "x.bin"):
        raise raised
    assert "x.bin" in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_names_the_file_already_passes_as_it_is(tmp_path):
    named = ValueError(f"{tmp_path}/x is too small")
    with pytest.raises(ValueError) as caught, reading(f"{tmp_path}/x"):
        raise named
    assert caught.value is named
    with pytest.raises(FileNotFoundError), reading(tmp_path / "absent"):
        (tmp_path / "absent").read_bytes()


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"pipe\.json to be a file, got a named pipe"):
        json_files.read_json(tmp_path / "pipe.json")


def test_absurd_json_is_named(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"deep\.json"):
        json_files.read_json(path)
    path.write_text("9" * 10_000)
    with pytest.raises(ValueError, match=r"deep\.json"):
        json_files.read_json(path)
