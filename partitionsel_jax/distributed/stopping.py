"""Ending in good order when the machine is wanted back: SIGTERM and SIGINT, on all processes.

GNU `timeout` and many launchers send a signal to a process and then to its group, so that it comes
twice: the same signal within `SAME_S` seconds of the first is that one again.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

# The coordinator's key-value store has no public name.
from jax._src import distributed as jax_distributed

from partitionsel_jax.distributed import processes

_LOG = logging.getLogger(__name__)

# "Temporary failure": what was begun goes on when the same command is given again.
EXIT_CODE = os.EX_TEMPFAIL
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which a signal that comes again is the same one.
SAME_S = 1.5

# Seconds for every process to say which update it has come to.
_PATIENCE_S = 60
_FOREVER_MS = 2**31 - 1
_KEY = "partitionsel_jax/stop"


class Stopped(SystemExit):
    """A run was asked to end, and did; left alone, it ends the program with `EXIT_CODE`."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class NoStop:
    """A stop that nobody asks for: signals stay what they were."""

    def asked(self) -> bool:
        """Returns False."""
        return False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Does nothing."""
        yield


class Stop(NoStop):
    """Says when a run should end: the same answer on all processes.

    All processes ask equally often, in the same places. The one that is told to stop tells the
    others; each then says how often it has asked, and the answer is yes from the first time on
    that none of them has come to yet. Until then asking costs nothing: no collective, no message.

    `multihost_utils.reached_preemption_sync_point` agrees in the same way, but hears of SIGTERM
    alone, takes the signal for itself, and cannot tell a process that has nothing to save.

    Args:
      process, processes: which of how many this is.
    """

    def __init__(self, process: int, processes: int) -> None:
        self._process, self._processes = process, processes
        # Held while the processes settle on a place, so that none runs past it.
        self._place = threading.Lock()
        self._count = 0
        self._last: int | None = None
        # The signal that asked to stop, and when it came.
        self._signal: tuple[int, float] | None = None
        self._holding = False

    def asked(self) -> bool:
        """True from the update on at which all processes end."""
        with self._place:
            self._count += 1
            return self._last is not None and self._count >= self._last

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Marks the time while something would be lost by ending at once."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def tell(self, number: int) -> None:
        """Does what a signal asks: the first stops all processes, a second one ends them.

        Where nothing would be lost, the first one ends them too. What comes again within `SAME_S`
        is no second one.
        """
        name = signal.Signals(number).name
        if self._signal is not None:
            if number == self._signal[0] and self._left() > 0:
                return
            why = f"ended at once by a second {name}"
            processes.end(why, 128 + number, told=f"was {why}")
        if not self._holding:
            why = f"stopped by {name}; the same command goes on"
            processes.end(why, EXIT_CODE, told=f"was {why}", others=EXIT_CODE)
        self._signal = number, time.monotonic()
        print(f"{name}: stopping after this update", flush=True)
        if self._processes == 1:
            self._last = 0
            return
        for process in range(self._processes):
            store_put(f"{_KEY}/ask/{process}", "stop")

    def _left(self) -> float:
        """Seconds in which the signal that asked to stop may come again."""
        return 0.0 if self._signal is None else self._signal[1] + SAME_S - time.monotonic()

    def settle(self) -> None:
        """Waits until the signal that asked to stop, if any, has come as often as it will.

        Once nobody listens any more, it would end the program by itself.
        """
        time.sleep(max(self._left(), 0.0))

    def listen(self) -> None:
        """Waits until one of several processes is told to stop, or `close`."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the others are gone
            if store_get(f"{_KEY}/ask/{self._process}", _FOREVER_MS) != "stop":
                return
            with self._place:
                store_put(f"{_KEY}/at/{self._process}", str(self._count))
                places = [
                    int(store_get(f"{_KEY}/at/{process}", 1000 * _PATIENCE_S))
                    for process in range(self._processes)
                ]
                self._last = max(places) + 1

    def close(self) -> None:
        """Ends `listen`."""
        store_put(f"{_KEY}/ask/{self._process}", "closed")


NO_STOP = NoStop()


def store_put(key: str, value: str) -> None:
    """Leaves a value with the coordinator for all processes; the first one stays."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(key, value)


def store_get(key: str, timeout_ms: int) -> str:
    """Returns a value once it is there.

    Raises:
      JaxRuntimeError: it did not come in time, or the coordinator is gone.
    """
    return _client().blocking_key_value_get(key, timeout_ms)


def _client() -> Any:
    return jax_distributed.global_state.client


# What the wake-up descriptor and the handlers were before; not empty while a program listens.
_BEFORE: list[tuple[int, dict[signal.Signals, Any]]] = []


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Turns SIGTERM and SIGINT into a stop; to be entered in the main thread, once in a program.

    The signals are seen by a thread of their own: the main thread may be waiting for a device, or
    for another process that does not answer.
    """
    stop = Stop(jax.process_index(), jax.process_count())
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    # Python only writes to the wake-up descriptor for a signal that has a handler.
    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    _BEFORE.append((signal.set_wakeup_fd(writable, warn_on_full_buffer=False), handlers))

    def read() -> None:
        while received := os.read(readable, 1):
            if received[0] in SIGNALS:
                stop.tell(received[0])

    threads = [threading.Thread(target=read, daemon=True)]
    if jax.process_count() > 1:
        threads.append(threading.Thread(target=stop.listen, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield stop
    except Exception:
        # Of several processes, the others may be gone: nothing is to be waited for.
        threads = threads[:1]
        raise
    finally:
        stop.settle()
        _give_back()
        os.close(writable)
        if len(threads) > 1:
            stop.close()
        for thread in threads:
            thread.join(timeout=5)
        os.close(readable)


def _give_back() -> None:
    """Lets signals do what they did before."""
    wakeup, handlers = _BEFORE.pop()
    signal.set_wakeup_fd(wakeup)
    for number, handler in handlers.items():
        # None: one that was not set from Python, and cannot be set again.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Forking(threading.local):
    """Keeps signals from a forked process until it has its own handlers.

    Before that they would count as its parent's, which listens on the same descriptor.
    """

    mask: set[signal.Signals | int]

    def before(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if _BEFORE else ())

    def in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def in_child(self) -> None:
        if _BEFORE:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            _BEFORE.clear()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


_FORKING = _Forking()
os.register_at_fork(
    before=_FORKING.before,
    after_in_parent=_FORKING.in_parent,
    after_in_child=_FORKING.in_child,
)
