"""How processes that run one program find out at the start whether all of them are there."""

import contextlib
import json
import selectors
import socket
import time
import typing
from typing import Any

from partitionsel_jax.distributed.clusters import Rendezvous

_RETRY_S = 0.2
# Seconds for a connection at the start, and bytes of anything that is said on it.
_GREETING_S, _LONGEST = 5, 1 << 20


class Missing(ValueError):
    """Not all processes came."""


def roll_call(rendezvous: Rendezvous, patience: float) -> dict[int, socket.socket]:
    """Returns once every process has come.

    `jax.distributed` ends a process with a stack trace when others do not come, and does not say
    which. The coordinator's port is used for a moment, before it takes it.

    Args:
      rendezvous: where, and how many.
      patience: seconds to wait.

    Returns:
      What is left connected, by number of the process at the other end: process 0 with each of the
      others.

    Raises:
      Missing: some did not come in time; on every process that did.
      ValueError: the port is taken, or process 0 counts other processes.
    """
    call = _call if rendezvous.process == 0 else _answer
    missing, connections = call(rendezvous, time.monotonic() + patience)
    if not missing:
        return connections
    for connection in connections.values():
        connection.close()
    names = [
        f"{number} ({rendezvous.hosts[number]})" if rendezvous.hosts else str(number)
        for number in missing
    ]
    raise Missing(
        f"{len(missing)} of {rendezvous.processes} processes did not come to "
        f"{rendezvous.coordinator} within {patience:g} s: process {', '.join(names)}; look at "
        "their logs, or wait longer with --patience"
    )


def _call(rendezvous: Rendezvous, deadline: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Process 0: hears who comes, and tells all of them who did not."""
    present: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(rendezvous))
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(server, selectors.EVENT_READ)
        # Whatever else connects to the port may stay silent, or say anything.
        said: dict[socket.socket, bytes] = {}
        while len(present) < rendezvous.processes - 1 and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                if key.fileobj is server:
                    with contextlib.suppress(OSError):
                        connection = stack.enter_context(server.accept()[0])
                        connection.settimeout(_GREETING_S)
                        selector.register(connection, selectors.EVENT_READ)
                        said[connection] = b""
                    continue
                connection = typing.cast(socket.socket, key.fileobj)
                said[connection] += (more := _received(connection))
                if more and b"\n" not in more and len(said[connection]) < _LONGEST:
                    continue
                selector.unregister(connection)
                number, count = _greeting(said.pop(connection))
                if count not in (None, rendezvous.processes):
                    _tell(connection, {"processes": rendezvous.processes})
                elif number is not None and 0 < number < rendezvous.processes:
                    if number in present:  # it was started again
                        present[number].close()
                    # Not to be closed with the others.
                    present[number] = socket.socket(fileno=connection.detach())
        missing = sorted(set(range(1, rendezvous.processes)) - present.keys())
        for connection in present.values():
            _tell(connection, missing)
    return missing, present


def _listening(rendezvous: Rendezvous) -> socket.socket:
    host, port = rendezvous.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=1024)
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen on port {port} ({error.strerror}): is another run using it? "
            "Name a free one in --coordinator"
        ) from None


def _received(connection: socket.socket) -> bytes:
    """What has come; nothing at its end."""
    try:
        return connection.recv(_LONGEST)
    except OSError:
        return b""


def _greeting(said: bytes) -> tuple[int | None, int | None]:
    """Number and count of a process that has greeted; None and None from a stranger."""
    try:
        greeting = json.loads(said)
        return int(greeting["process"]), int(greeting["processes"])
    except (ValueError, TypeError, KeyError):
        return None, None


def _tell(connection: socket.socket, what: Any) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(what).encode() + b"\n")


def _answer(rendezvous: Rendezvous, deadline: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Another process: says that it is here, and hears who is not."""
    while time.monotonic() < deadline:
        heard = None
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, ValueError):
            connection = stack.enter_context(
                socket.create_connection(rendezvous.address, timeout=_GREETING_S)
            )
            _tell(connection, {"process": rendezvous.process, "processes": rendezvous.processes})
            # Process 0 may have begun to wait later.
            connection.settimeout(max(1.0, deadline - time.monotonic() + _GREETING_S))
            with connection.makefile() as file:
                heard = json.loads(file.readline(_LONGEST))
            if isinstance(heard, list):
                return heard, {0: socket.socket(fileno=connection.detach())}
        if isinstance(heard, dict):
            raise ValueError(
                f"process 0 counts {heard['processes']} processes, and this one "
                f"{rendezvous.processes}: start all with the same --processes"
            )
        time.sleep(_RETRY_S)
    return [0], {}
