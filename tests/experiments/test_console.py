"""What a command says when it ends early: one line, with all of the message in it."""

import errno

import pytest

from experiments import console


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("row 3: '\\neq' is no answer; repair it", "row 3: '\\neq' is no answer; repair it"),
        ("domain 'a\nb' has\n  2 rows", "domain 'a b' has 2 rows"),
        ("", "ValueError"),
    ],
)
def test_errors_keep_their_backslashes_and_become_one_line(capsys, message, line):
    with pytest.raises(SystemExit) as end, console.one_line_errors(ValueError):
        raise ValueError(message)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), console.one_line_errors(ValueError):
        raise error


def test_a_missing_package_is_one_line_and_a_missing_module_of_ours_a_fault():
    with pytest.raises(SystemExit), console.one_line_errors():
        raise ImportError("checking expressions needs math-verify")
    with pytest.raises(ImportError), console.one_line_errors():
        raise ImportError("no module", name="partitionsel_jax.nothing")


def wrapped(error):
    """An error as a library hands it on."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("saving failed") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left"), "the disk is full (", "make room on it"),
        (wrapped(OSError(errno.ENOSPC, "x")), "the disk is full (", "make room on it"),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), "the disk is full (", "room"),
        (OSError(errno.EDQUOT, "x"), "the disk's quota is used up (", "make room"),
        (OSError(errno.EMFILE, "x"), "too few files may be open at once (", "ulimit -n 4096"),
        (ValueError("Too many open files\nat: a"), "too few files may be open", "ulimit -n 4096"),
        (MemoryError(), "there is too little memory (", "microbatch"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "there is too little", "microbatch"),
    ],
)
def test_what_the_machine_lacks_is_one_line_with_the_remedy(capsys, error, what, remedy):
    with pytest.raises(SystemExit) as end, console.one_line_errors():
        raise error
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.count("\n") == 1
    assert said.startswith(f"error: {what}") and remedy in said.partition("): ")[2]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("utilty"), "config field: utilty"),
        (ValueError('Traceback\\n  File \\"x\\"\\nValueError: expected seeds=<int>'), None),
    ],
)
def test_errors_of_config_files_are_their_last_line(capsys, error, line):
    with pytest.raises(SystemExit), console.one_line_flag_errors():
        raise error
    assert capsys.readouterr().err == f"error: {line or 'ValueError: expected seeds=<int>'}\n"
