"""Calls in a process of their own: what they give, and what ends them."""

import concurrent.futures
import os
import subprocess
import sys
import time

import pytest

from partitionsel_jax.time_limited import TimeLimited

PROGRAM = """
import os, time

def answer(what, value=None):
    if what == "hang":
        while True:
            pass
    if what == "raise":
        raise KeyError(what)
    if what == "end":
        os._exit(3)
    if what == "memory":
        return len(bytearray(3 << 30))
    if what == "compute":
        return (10 ** 10 ** 9) % 7
    if what == "sleep":
        time.sleep(value)
    if what == "process":
        return os.getpid()
    return value
"""


@pytest.fixture
def limited(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    found = TimeLimited(tmp_path / "program.py")
    yield found
    found.close()


@pytest.mark.parametrize("value", [None, 0.5, "\ud800 \n é", ["a", {"b": 1}], "x" * 300_000])
def test_values_go_there_and_back(limited, value):
    assert limited.ask("give", value, seconds=20) == value


@pytest.mark.parametrize("what", ["hang", "raise", "end", "memory", "compute"])
def test_what_fails_or_takes_too_long_gives_nothing_and_the_next_is_answered(limited, what):
    assert limited.ask("give", 1, seconds=20) == 1
    start = time.monotonic()
    # Three gigabytes are had in a second or two where nothing forbids it.
    assert limited.ask(what, seconds=20 if what == "memory" else 0.5) is None
    assert time.monotonic() - start < 10
    assert limited.ask("give", 2, seconds=20) == 2


def test_the_process_is_another_one_and_stays(limited):
    first, second = (limited.ask("process", seconds=20) for _ in range(2))
    assert first == second != os.getpid()
    limited.close()
    assert limited.ask("process", seconds=20) != first


def test_threads_get_their_own_answers(limited):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda number: limited.ask("give", number, seconds=20), range(200))
        assert list(found) == list(range(200))


def test_a_program_that_does_not_start_is_an_error(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(RuntimeError, match=r"the process that runs broken\.py did not start"):
        TimeLimited(tmp_path / "broken.py").ask(seconds=1)


# A process that JAX has not made multi-threaded, as it may be forked.
SCRIPT = """
import os, sys
from pathlib import Path
from partitionsel_jax.time_limited import TimeLimited

limited = TimeLimited(Path(sys.argv[1]))
ours = limited.ask("process", seconds=20)
child = os.fork()
if not child:
    theirs = limited.ask("process", seconds=20)
    limited.close()
    os._exit(0 if theirs not in (ours, None) else 1)
assert os.waitpid(child, 0)[1] == 0
assert limited.ask("process", seconds=20) == ours
print(ours)
"""


def test_a_fork_starts_a_process_of_its_own_which_ends_with_the_program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
