"""Answers from a process of its own, which is ended when one takes too long.

A thread cannot be ended, a signal reaches the main thread alone, and neither stops what the
interpreter computes in one go: a process can be ended whatever it does, and limits its memory.
"""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("time_limited_worker.py")
_START_SECONDS = 120.0
# Libraries of linear algebra reserve memory for every thread, which the worker's limit counts. The
# order of a set must not be another in every process.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WORKER_ENVIRONMENT = dict.fromkeys(_THREADS, "1") | {"PYTHONHASHSEED": "0"}


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
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        _INSTANCES.add(self)

    def ask(self, *arguments: Any, seconds: float) -> Any:
        """What `answer(*arguments)` gives; None where it raises, or is not done in so many seconds
        and within 2 GiB.

        Raises:
          NotStarted: the process could not be started, whatever the arguments.
        """
        request = json.dumps([seconds, arguments]).encode() + b"\n"
        with self._lock:
            connection = self._connection or self._start()
            try:
                connection.settimeout(seconds)
                connection.sendall(request)
                reply = _line(connection, seconds)
            except OSError:
                reply = b""
            except BaseException:
                # An answer is under way, which the next request would take for its own.
                self._end()
                raise
            if not reply:
                self._end()
                return None
            return json.loads(reply)

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """After a fork: the process is the parent's, whose lock may be held for ever here."""
        self._lock = threading.Lock()
        self._process = self._connection = None

    def _start(self) -> socket.socket:
        """Starts the process and waits until it has imported what it needs."""
        ours, theirs = socket.socketpair()
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            with theirs:
                self._connection, self._process = (
                    ours,
                    subprocess.Popen(
                        # -P: the worker's folder must not become a place to import from.
                        [sys.executable, "-P", str(_WORKER), str(self._program)],
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=os.environ | _WORKER_ENVIRONMENT | {"PYTHONPATH": paths},
                    ),
                )
            if not _line(ours, _START_SECONDS):
                raise EOFError
        except (OSError, EOFError) as error:
            self._end()
            raise NotStarted(
                f"the process that runs {self._program.name} did not start; "
                f"`{sys.executable} {self._program}` may say why"
            ) from error
        except BaseException:
            self._end()
            raise
        return ours

    def _end(self) -> None:
        """Kills the process and waits for it."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
        self._connection = self._process = None


def _line(connection: socket.socket, seconds: float) -> bytes:
    """The next line; empty where the other end was closed before.

    Raises:
      TimeoutError: it has not come in so many seconds.
    """
    end = time.monotonic() + seconds
    line = bytearray()
    while not line.endswith(b"\n"):
        connection.settimeout(max(end - time.monotonic(), 1e-3))
        if not (part := connection.recv(1 << 16)):
            return b""
        line += part
    return bytes(line)


_INSTANCES: "weakref.WeakSet[TimeLimited]" = weakref.WeakSet()


def _forget() -> None:
    for instance in _INSTANCES:
        instance.forget()


def _close() -> None:
    for instance in _INSTANCES:
        instance.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
