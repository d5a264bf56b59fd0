"""Ends a process as soon as one that it works with is gone.

`jax.distributed` notices that too, after up to half a minute, and ends a process with a stack trace
that does not say who it was.
"""

import contextlib
import json
import os
import selectors
import socket
import threading
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

# A killed process's connections are closed by its host at once. Where the host is gone too, these
# many seconds pass without an answer before it is asked, between questions, and so many questions.
_SILENT_S, _BETWEEN_S, _QUESTIONS = 10, 5, 3
_MOST = 1 << 16


class Watch:
    """Connections of process 0 with each of the others, on which nothing is said but at the end.

    * A connection that ends without a farewell means that the process is gone: process 0 tells the
      others, and every process ends with code 1 and a line that names it.
    * A process that has to end says why, and with which code the others are to end.

    Args:
      process: which this one is.
      connections: what `roll_call` returned.
    """

    def __init__(self, process: int, connections: Mapping[int, socket.socket]) -> None:
        self._process, self._connections = process, dict(connections)
        # Whoever comes first says why this process ends.
        self._last_words = threading.Lock()
        for connection in self._connections.values():
            connection.settimeout(None)
            _keep_alive(connection)
        threading.Thread(target=self._listen, daemon=True).start()

    def farewell(self) -> None:
        """Says that this process is done, and that the end of its connections means nothing."""
        self._tell({"done": True})

    def end(self, line: str, code: int, told: str, others: int = 1) -> NoReturn:
        """Ends all processes at once, this one first.

        Args:
          line: what is printed here.
          code: what this process ends with.
          told: why, to follow "process N" in the others' line.
          others: what they end with.
        """
        self._last_words.acquire()
        self._end(line, code, {"process": self._process, "why": told, "code": others})

    def _end(self, line: str, code: int, message: Mapping[str, Any]) -> NoReturn:
        self._tell(message)
        print(line, flush=True)
        os._exit(code)

    def _tell(self, message: Mapping[str, Any]) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    self._hear(typing.cast(socket.socket, key.fileobj), key.data)
                    # What is still there has said farewell.
                    selector.unregister(key.fileobj)

    def _hear(self, connection: socket.socket, number: int) -> None:
        why = "is gone: see its log; the same command goes on from the last checkpoint"
        message: dict[str, Any] = {"process": number, "why": why, "code": 1}
        # A line is short and sent whole; of a broken connection there is none.
        with contextlib.suppress(OSError, ValueError):
            message = json.loads(connection.recv(_MOST).partition(b"\n")[0])
        if message.get("done"):
            return
        self._last_words.acquire()
        prefix = "error: " if message["code"] == 1 else ""
        line = f"{prefix}process {message['process']} {message['why']}"
        self._end(line, message["code"], message)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _SILENT_S),
        ("TCP_KEEPINTVL", _BETWEEN_S),
        ("TCP_KEEPCNT", _QUESTIONS),
    ):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
