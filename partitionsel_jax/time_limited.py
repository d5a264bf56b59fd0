"""Answers from a process of its own, which is ended when one takes too long.

A thread cannot be ended, and no signal stops what the interpreter computes in one go; a process can
be ended whatever it does, and limits its memory. A pool (multiprocessing's, pebble's) would run the
caller's script again in each worker unless it is guarded by `if __name__ == "__main__"`.

Run as a program, this file is that process: it imports nothing else of ours, and starts quickly.
"""

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_START_SECONDS = 120.0
_MOST_MEMORY = 2 << 30  # bytes; 10^10^10 would take more
# Libraries of linear algebra reserve memory for every thread, which the limit counts. The order of
# a set must not be another in every process.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ENVIRONMENT = dict.fromkeys(_THREADS, "1") | {"PYTHONHASHSEED": "0"}


class NotStarted(RuntimeError):
    """A process that could not be started, so that it answers nothing, whatever it is asked."""


class TimeLimited:
    """A function of a file, called in a worker process that all threads share.

    The process is started when first asked, and again after it was ended; a forked process starts
    one of its own.

    Args:
      program: a Python file that defines `answer`, whose arguments and result are JSON values, and
        which imports nothing of the folder that it lies in.
    """

    def __init__(self, program: Path):
        self._program = program
        self._forget()
        # The process is the parent's after a fork, and its lock may be held for ever there.
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def ask(self, *arguments: Any, seconds: float) -> Any:
        """Calls `answer(*arguments)` in the process.

        Returns:
          What it gives; None where it raises, or is not done in so many seconds and within 2 GiB.

        Raises:
          NotStarted: the process could not be started, whatever the arguments.
        """
        request = json.dumps([seconds, arguments]).encode() + b"\n"
        with self._lock:
            if self._process is None:
                self._start()
            return json.loads(self._exchange(request, seconds) or "null")

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._connection, theirs = socket.socketpair()
        paths = os.pathsep.join(path for path in sys.path if path)
        with theirs, contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                # -P: the folder of this file must not become a place to import from.
                [sys.executable, "-P", __file__, str(self._program)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": paths},
            )
        if not self._exchange(b"", _START_SECONDS):
            raise NotStarted(
                f"the process that runs {self._program.name} did not start; "
                f"`{sys.executable} {self._program}` may say why"
            )

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        """Returns the line of the reply; empty, and the process is ended, where none comes."""
        assert self._connection is not None
        reply = b""
        try:
            self._connection.settimeout(seconds)
            self._connection.sendall(request)
            with self._connection.makefile("rb") as lines:
                reply = lines.readline()
        except OSError:
            pass
        finally:
            # After an interruption, too, an answer is under way that the next request would take.
            if not reply.endswith(b"\n"):
                self._end()
        return reply if reply.endswith(b"\n") else b""

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None


def _serve(path: str) -> None:
    """Answers requests on standard input, which is a socket, until its other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    logging.disable(logging.CRITICAL)
    spec = importlib.util.spec_from_file_location("program", path)
    assert spec is not None and spec.loader is not None
    program: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    with socket.socket(fileno=0) as connection, connection.makefile("rb") as requests:
        connection.sendall(b"started\n")
        for request in requests:
            seconds, arguments = json.loads(request)
            # If the asking process is gone, nobody else would end a long computation.
            signal.setitimer(signal.ITIMER_REAL, seconds + 1)
            reply = "null"
            with contextlib.suppress(Exception):
                reply = json.dumps(program.answer(*arguments))
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(reply.encode() + b"\n")


if __name__ == "__main__":
    _serve(sys.argv[1])
