"""Connections of process 0 with each other one: all are there at the start, and none is lost later.

`jax.distributed` checks both too, but ends a process with a stack trace that does not say who is
missing, and notices a lost one after up to half a minute. Messages are lines of JSON.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from partitionsel_jax.distributed.clusters import Rendezvous

_RETRY_S = 0.2
# Seconds for a process to say who it is, and bytes of anything that is said.
_GREETING_S, _LONGEST = 5, 1 << 20
# A killed process's connections are closed by its host at once. Where the host is gone too, so many
# seconds pass without an answer before it is asked, between questions, and so many questions.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_GONE = "is gone: see its log; the same command goes on from the last checkpoint"


def roll_call(rendezvous: Rendezvous, patience: float) -> dict[int, socket.socket]:
    """Returns once every process has come; the coordinator's port is used before JAX takes it.

    Args:
      rendezvous: where, and how many.
      patience: seconds to wait.

    Returns:
      Open connections by number of the process at the other end: process 0 has one with each of the
      others.

    Raises:
      ValueError: some did not come in time, said on every process that did; the port is taken; or
        process 0 counts other processes.
    """
    meet = _call if rendezvous.process == 0 else _answer
    missing, connections = meet(rendezvous, time.monotonic() + patience)
    if not missing:
        return connections
    for connection in connections.values():
        connection.close()
    names = [
        f"{number} ({rendezvous.hosts[number]})" if rendezvous.hosts else str(number)
        for number in missing
    ]
    raise ValueError(
        f"{len(missing)} of {rendezvous.processes} processes did not come to "
        f"{rendezvous.coordinator} within {patience:g} s: process {', '.join(names)}; look at "
        "their logs, or wait longer with --patience"
    )


def _call(rendezvous: Rendezvous, deadline: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Hears, as process 0, who comes, and tells all of them who did not."""
    host, port = rendezvous.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, backlog=1024)
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen on port {port} ({error.strerror}): is another run using it? "
            "Name a free one in --coordinator"
        ) from None
    present: dict[int, socket.socket] = {}

    def greet(connection: socket.socket) -> None:
        # Whatever else connects to the port may stay silent, or say anything.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            connection.settimeout(_GREETING_S)
            said = _heard(connection)
            number, count = int(said["process"]), int(said["processes"])
            if count == rendezvous.processes and 0 < number < count:
                present[number] = connection  # once more, if it was started again
                return
            _tell([connection], {"processes": rendezvous.processes})
        connection.close()

    with server:
        server.settimeout(_RETRY_S)
        while len(present) < rendezvous.processes - 1 and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                threading.Thread(target=greet, args=server.accept()[:1], daemon=True).start()
    connections = dict(present)
    missing = sorted(set(range(1, rendezvous.processes)) - connections.keys())
    _tell(connections.values(), missing)
    return missing, connections


def _answer(rendezvous: Rendezvous, deadline: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Tells process 0, as another one, that this one is here, and hears who is not."""
    about = {"process": rendezvous.process, "processes": rendezvous.processes}
    while time.monotonic() < deadline:
        heard = None
        with contextlib.suppress(OSError, ValueError):
            connection = socket.create_connection(rendezvous.address, timeout=_GREETING_S)
            _tell([connection], about)
            # Process 0 may have begun to wait later.
            connection.settimeout(max(1.0, deadline - time.monotonic() + _GREETING_S))
            heard = _heard(connection)
            if isinstance(heard, list):
                return heard, {0: connection}
            connection.close()
        if isinstance(heard, dict):
            raise ValueError(
                f"process 0 counts {heard['processes']} processes, and this one "
                f"{rendezvous.processes}: start all with the same --processes"
            )
        time.sleep(_RETRY_S)
    return [0], {}


def _tell(connections: Iterable[socket.socket], what: Any) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(what).encode() + b"\n")


def _heard(connection: socket.socket) -> Any:
    """Reads one message, a line."""
    with connection.makefile("rb") as file:
        return json.loads(file.readline(_LONGEST))


class PeerMonitor:
    """Ends this process as soon as one that it works with is gone, and tells them of its own end.

    * A connection that ends without a farewell means that the process is gone: process 0 tells the
      others, and every process ends with code 1 and a line that names it.
    * A process that has to end says why, and with which code the others are to end.

    Args:
      process: which one this is.
      connections: what `roll_call` returned.
    """

    def __init__(self, process: int, connections: Mapping[int, socket.socket]) -> None:
        self._process, self._connections = process, dict(connections)
        # Whoever comes first says why this process ends.
        self._ending = threading.Lock()
        for number, connection in self._connections.items():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE.items():
                if hasattr(socket, name):  # not on every system
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            threading.Thread(target=self._listen, args=(number, connection), daemon=True).start()

    def farewell(self) -> None:
        """Says that this process is done, and that the end of its connections means nothing."""
        _tell(self._connections.values(), {"done": True})

    def end(self, line: str, code: int, told: str, others: int = 1) -> NoReturn:
        """Ends all processes at once, this one first; see `processes.end`."""
        self._end(line, code, {"process": self._process, "why": told, "code": others})

    def _end(self, line: str, code: int, message: Mapping[str, Any]) -> NoReturn:
        self._ending.acquire()
        _tell(self._connections.values(), message)
        print(line, flush=True)
        os._exit(code)

    def _listen(self, number: int, connection: socket.socket) -> None:
        message: dict[str, Any] = {"process": number, "why": _GONE, "code": 1}
        with contextlib.suppress(OSError, ValueError):  # of a broken connection there is no message
            message = _heard(connection)
        if not message.get("done"):
            prefix = "error: " if message["code"] == 1 else ""
            line = f"{prefix}process {message['process']} {message['why']}"
            self._end(line, message["code"], message)
