"""Processes that run one program together: how they meet, agree and end."""

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from partitionsel_jax.distributed.clusters import Rendezvous
from partitionsel_jax.distributed.peers import PeerMonitor, roll_call

_LOG = logging.getLogger(__name__)

# Seconds to wait for all processes at the start; a pod's hosts need not boot at the same time.
PATIENCE_S = 90
# Seconds without a sign of life after which JAX counts a process as dead, and ends the others; one
# that is gone is noticed by `PeerMonitor` before.
HEARTBEAT_S = 30
# Seconds for all to come to a meeting later on; whoever dies is noticed much earlier.
_MEETING_S = 1800
# Seconds in which the monitor says that another process is gone, before what failed here for it.
_MONITOR_S = 1.0
_BARRIERS = itertools.count()
# One, where this process works with others.
_MONITORS: list[PeerMonitor] = []


def join(rendezvous: Rendezvous, patience: float = PATIENCE_S) -> None:
    """Meets the other processes, and starts `jax.distributed`; before anything touches a device.

    From then on the end of one of them, but for those of `ending_together`, is the end of all.

    Raises:
      ValueError: see `roll_call`.
    """
    _MONITORS.append(PeerMonitor(rendezvous.process, roll_call(rendezvous, patience)))
    # JAX gives a process of SLURM or Open MPI one GPU, unless told not to: alone on a host, it has
    # all of them.
    is_alone = (
        os.environ.get("SLURM_STEP_NUM_NODES") == str(rendezvous.processes)
        or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    )
    jax.distributed.initialize(
        rendezvous.coordinator,
        rendezvous.processes,
        rendezvous.process,
        cluster_detection_method="deactivate" if is_alone else None,
        initialization_timeout=HEARTBEAT_S,
        heartbeat_timeout_seconds=HEARTBEAT_S,
        shutdown_timeout_seconds=HEARTBEAT_S,
    )


def is_first() -> bool:
    """True on the process that writes."""
    return jax.process_index() == 0


def wait() -> None:
    """Waits until every process is here.

    Before a program's first run, too: collectives whose devices meet for the first time give up
    after half a minute, and one process may compile for longer than another.
    """
    if jax.process_count() > 1:
        key = f"partitionsel_jax/{next(_BARRIERS)}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=1000 * _MEETING_S)


def agreed(value: int) -> int:
    """Returns process 0's number, on all."""
    if jax.process_count() == 1:
        return value
    wait()
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def of_all(value: float) -> list[float]:
    """Returns every process's number, on all."""
    if jax.process_count() == 1:
        return [value]
    wait()
    return multihost_utils.process_allgather(np.float32(value)).tolist()


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes with one line and code 1 where an error is raised on one of several.

    What JAX does at the end of a program waits for the others, and ends with a stack trace.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        # Without another process everything fails: the monitor knows which one is gone.
        time.sleep(_MONITOR_S)
        reason = first_line(error)
        end(f"error: process {jax.process_index()}: {reason}", 1, told=f"ended: {reason}")
    finally:
        for monitor in _MONITORS:
            monitor.farewell()


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened; its type's name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def end(line: str, code: int, told: str, others: int = 1) -> NoReturn:
    """Ends this process at once, whatever it waits for, and those that it works with.

    Args:
      line: what is printed here.
      code: what this process ends with.
      told: what the others print after "process N".
      others: what they end with.
    """
    for monitor in _MONITORS:
        monitor.end(line, code, told, others)
    print(line, flush=True)
    os._exit(code)


def log_slow(seconds: float, what: str) -> None:
    """Logs which processes took much longer than the others; all call it."""
    found = np.asarray(of_all(seconds))
    if len(found) == 1 or not is_first():
        return
    for number, taken in enumerate(found.tolist()):
        usual = float(np.median(np.delete(found, number)))
        if taken > 2 * usual + 1:
            _LOG.warning("process %d %s: %.1f s, the others %.1f s", number, what, taken, usual)
