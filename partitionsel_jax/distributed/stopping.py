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
from collections.abc import Callable, Iterator
from typing import Any

import jax

from partitionsel_jax.distributed import processes, shared_store

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
        """No."""
        return False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing."""
        yield


class Stop(NoStop):
    """Whether a run should end, the same answer on all processes.

    All processes ask equally often, in the same places. The one that is told to stop tells the
    others; each then says how often it has asked, and the answer is yes from the first time on
    that none of them has come to yet. Until then asking costs nothing: no collective, no message.

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
        """Whether to end here."""
        with self._place:
            self._count += 1
            return self._last is not None and self._count >= self._last

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While something would be lost by ending at once."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def tell(self, number: int) -> None:
        """What a signal does: the first asks all processes to stop, a second one ends them.

        Where nothing would be lost, the first one ends them too. What comes again within `SAME_S`
        is no second one.
        """
        if self._signal is not None:
            if number == self._signal[0] and self._left() > 0:
                return
            why = f"ended at once by a second {_name(number)}"
            processes.end(why, 128 + number, told=f"was {why}")
        if not self._holding:
            why = f"stopped by {_name(number)}; the same command goes on"
            processes.end(why, EXIT_CODE, told=f"was {why}", others=EXIT_CODE)
        self._signal = number, time.monotonic()
        print(f"{_name(number)}: stopping after this update", flush=True)
        if self._processes == 1:
            self._last = 0
            return
        for process in range(self._processes):
            shared_store.put(f"{_KEY}/ask/{process}", "stop")

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
            if shared_store.get(f"{_KEY}/ask/{self._process}", _FOREVER_MS) != "stop":
                return
            with self._place:
                shared_store.put(f"{_KEY}/at/{self._process}", str(self._count))
                places = [
                    int(shared_store.get(f"{_KEY}/at/{process}", 1000 * _PATIENCE_S))
                    for process in range(self._processes)
                ]
                self._last = max(places) + 1

    def close(self) -> None:
        """Ends `listen`."""
        shared_store.put(f"{_KEY}/ask/{self._process}", "closed")


NO_STOP = NoStop()


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Turns SIGTERM and SIGINT into a stop; to be entered in the main thread, once in a program.

    The signals are seen by a thread of their own: the main thread may be waiting for a device, or
    for another process that does not answer.
    """
    stop = Stop(jax.process_index(), jax.process_count())
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = {number: signal.signal(number, _nothing) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    _ACTIVE.append(wakeup)
    threads = [_started(lambda: _read(readable, stop))]
    if jax.process_count() > 1:
        threads.append(_started(stop.listen))
    try:
        yield stop
    except Exception:
        # Of several processes, the others may be gone: nothing is to be waited for.
        threads = threads[:1]
        raise
    finally:
        stop.settle()
        _restore(before)
        os.close(writable)
        if len(threads) > 1:
            stop.close()
        for thread in threads:
            thread.join(timeout=5)
        os.close(readable)


# What the wake-up descriptor was before; not empty while a program listens.
_ACTIVE: list[int] = []


def _restore(before: dict[signal.Signals, Any]) -> None:
    signal.set_wakeup_fd(_ACTIVE.pop())
    for number, handler in before.items():
        # None: one that was not set from Python, and cannot be set again.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Forking(threading.local):
    """Keeps signals from a forked process until it has its own handlers.

    Before, they would count as this process's, which hears of them through the same descriptor.
    """

    mask: set[signal.Signals | int]

    def before(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if _ACTIVE else ())

    def in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def in_child(self) -> None:
        if _ACTIVE:
            _restore(dict.fromkeys(SIGNALS))
            _ACTIVE.clear()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


_FORKING = _Forking()
os.register_at_fork(
    before=_FORKING.before,
    after_in_parent=_FORKING.in_parent,
    after_in_child=_FORKING.in_child,
)


def _nothing(number: int, frame: Any) -> None:
    """Python only writes to the wake-up descriptor for a signal that has a handler."""


def _read(readable: int, stop: Stop) -> None:
    while received := os.read(readable, 1):
        if received[0] in SIGNALS:
            stop.tell(received[0])


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _name(number: int) -> str:
    return signal.Signals(number).name
