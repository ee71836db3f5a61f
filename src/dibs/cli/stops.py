"""What a signal to stop does to `dibs worker`.

Owns: the end while there is nothing to stop in order yet; then the stop in order; and the last
resort, where the broker does not answer (another process may be stopped inside a commit) and the
worker ends all the same, when it said it would.
Must never: end a worker in disorder that could still end in order.
Called by: `worker.py`.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from dibs.worker.signals import stop_signals

LATE_SECONDS = 1.5
"""How long after its time a worker may still be ending in order; two are promised."""


class Stops:
    """Hears the signals: `seconds` is the shutdown timeout, a second signal ends it at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stop: Callable[[], None] | None = None
        # A signal may interrupt the handling of another: `SimpleQueue.put` is safe there.
        self._asked: SimpleQueue[float | None] = SimpleQueue()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals; each ends the process until there is a worker `at_work`."""
        with stop_signals(self._hear):
            yield

    @contextmanager
    def at_work(self, stop: Callable[[], None], give_up: Callable[[], None]) -> Iterator[None]:
        """Let each signal call `stop`; call `give_up`, which must not return, when time is up."""
        self._stop = stop
        watch = threading.Thread(target=self._watch, args=(give_up,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._asked.put(None)
            watch.join()

    def _hear(self, number: int) -> None:
        if self._stop is not None:
            self._stop()
            self._asked.put(self._seconds)
            self._seconds = 0.0
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(0)

    def _watch(self, give_up: Callable[[], None]) -> None:
        seconds = self._asked.get()
        deadline = float("inf")
        while seconds is not None:
            deadline = min(deadline, time.monotonic() + seconds + LATE_SECONDS)
            try:
                seconds = self._asked.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                give_up()
