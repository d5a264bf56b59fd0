"""What a command says when it ends early: one line, with all of the message in it."""

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


def test_other_errors_pass():
    with pytest.raises(KeyError), console.one_line_errors(ValueError):
        raise KeyError("x")


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
