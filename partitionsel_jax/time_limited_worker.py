"""The program of `TimeLimited`: started by path, so that it imports nothing else of ours.

Its argument is a Python file that defines `answer`. One request a line on standard input, which is
a socket: [seconds, arguments] as JSON; one line back: what `answer` gives, null where it raises.
"""

import contextlib
import importlib.util
import json
import logging
import resource
import signal
import socket
import sys
from typing import Any

# More than any answer that is one needs; 10^10^10 would take gigabytes.
_MOST_MEMORY = 2 << 30


def main(path: str) -> None:
    """Answers requests until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    logging.disable(logging.CRITICAL)
    spec = importlib.util.spec_from_file_location("program", path)
    assert spec is not None and spec.loader is not None
    program: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    with socket.socket(fileno=0) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"!\n")
        for line in lines:
            seconds, arguments = json.loads(line)
            # If the asking process is gone, nobody else would end a long computation.
            signal.setitimer(signal.ITIMER_REAL, seconds + 1)
            reply = b"null"
            with contextlib.suppress(Exception):
                reply = json.dumps(program.answer(*arguments)).encode()
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(reply + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
