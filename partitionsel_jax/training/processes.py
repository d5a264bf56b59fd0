"""Processes that run one program together: how they meet, agree and end."""

import contextlib
import itertools
import json
import logging
import os
import selectors
import socket
import time
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from partitionsel_jax.training.clusters import Rendezvous

_LOG = logging.getLogger(__name__)

# Seconds to wait for all processes at the start; a pod's hosts need not boot at the same time.
PATIENCE_S = 90
# Seconds without a sign of life after which a process counts as dead, and the others end.
HEARTBEAT_S = 30
_RETRY_S = 0.2
# Seconds for a connection at the start, and bytes of anything that is said on it.
_GREETING_S, _LONGEST = 5, 1 << 20
# Seconds for all to come to a meeting later on; whoever dies is noticed much earlier.
_MEETING_S = 1800
_BARRIERS = itertools.count()


class Missing(ValueError):
    """Not all processes came."""


def join(rendezvous: Rendezvous, patience: float = PATIENCE_S) -> None:
    """Meets the other processes, and starts `jax.distributed`; before anything touches a device.

    Raises:
      Missing: some did not come in time; on every process that did.
    """
    roll_call(rendezvous, patience)
    jax.distributed.initialize(
        rendezvous.coordinator,
        rendezvous.processes,
        rendezvous.process,
        initialization_timeout=HEARTBEAT_S,
        heartbeat_timeout_seconds=HEARTBEAT_S,
        shutdown_timeout_seconds=HEARTBEAT_S,
    )


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def wait() -> None:
    """Until every process is here.

    Before a program's first run, too: collectives whose devices meet for the first time give up
    after half a minute, and one process may compile for longer than another.
    """
    if jax.process_count() > 1:
        key = f"partitionsel_jax/{next(_BARRIERS)}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=1000 * _MEETING_S)


def agreed(value: int) -> int:
    """Process 0's number, on all."""
    if jax.process_count() == 1:
        return value
    wait()
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def of_all(value: float) -> list[float]:
    """Every process's number, on all."""
    if jax.process_count() == 1:
        return [value]
    wait()
    return multihost_utils.process_allgather(np.float32(value)).tolist()


def roll_call(rendezvous: Rendezvous, patience: float) -> None:
    """Returns once every process has come.

    `jax.distributed` ends a process with a stack trace when others do not come, and does not say
    which. The coordinator's port is used for a moment, before it takes it.

    Raises:
      Missing: see `join`.
    """
    call = _call if rendezvous.process == 0 else _answer
    missing = call(rendezvous, time.monotonic() + patience)
    if missing:
        names = [
            f"{number} ({rendezvous.hosts[number]})" if rendezvous.hosts else str(number)
            for number in missing
        ]
        raise Missing(
            f"{len(missing)} of {rendezvous.processes} processes did not come to "
            f"{rendezvous.coordinator} within {patience:g} s: process {', '.join(names)}; look at "
            "their logs, or wait longer with --patience"
        )


def _call(rendezvous: Rendezvous, deadline: float) -> list[int]:
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
                    present[number] = connection
        missing = sorted(set(range(1, rendezvous.processes)) - present.keys())
        for connection in present.values():
            _tell(connection, missing)
    return missing


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


def _answer(rendezvous: Rendezvous, deadline: float) -> list[int]:
    """Another process: says that it is here, and hears who is not."""
    hello = {"process": rendezvous.process, "processes": rendezvous.processes}
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(rendezvous.address, timeout=_GREETING_S) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                # Process 0 may have begun to wait later.
                connection.settimeout(max(1.0, deadline - time.monotonic() + _GREETING_S))
                with connection.makefile() as file:
                    heard = json.loads(file.readline(_LONGEST))
        except (OSError, ValueError):
            heard = None
        if isinstance(heard, list):
            return heard
        if isinstance(heard, dict):
            raise ValueError(
                f"process 0 counts {heard['processes']} processes, and this one "
                f"{rendezvous.processes}: start all with the same --processes"
            )
        time.sleep(_RETRY_S)
    return [0]


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends a process that has lost the others at once, with one line and code 1.

    What JAX does at the end of a program waits for the others, and ends with a stack trace.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        print(f"error: process {jax.process_index()}: {reason}", flush=True)
        os._exit(1)


def log_slow(seconds: float, what: str) -> None:
    """Logs which processes took much longer than the others; all call it."""
    found = np.asarray(of_all(seconds))
    if len(found) == 1 or not is_first():
        return
    usual = float(np.median(found))
    slow: Mapping[int, Any] = {
        number: taken for number, taken in enumerate(found.tolist()) if taken > 2 * usual + 1
    }
    for number, taken in slow.items():
        _LOG.warning("process %d %s: %.1f s, the others %.1f s", number, what, taken, usual)
