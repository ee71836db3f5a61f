"""What a signal to stop does to `dibs worker`.

Owns: the stop in order; and the last resort, where the broker does not answer (another process may
be stopped inside a commit) and the worker ends all the same, when it said it would.
Must never: end a worker in disorder that could still end in order, or raise in a handler.
Called by: `worker.py`.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from dibs.cli import EXIT_INTERRUPTED
from dibs.worker.service import EXIT_DONE, Service
from dibs.worker.signals import stop_signals

LATE_SECONDS = 1.5
"""How long after its time a worker may still be ending in order; two are promised."""


class Stops:
    """Hears the signals: `seconds` is the shutdown timeout, a second signal ends it at once."""

    def __init__(self, service: Service, seconds: float) -> None:
        self._service = service
        self._seconds = seconds
        self._first: int | None = None
        # A signal may interrupt the handling of another: `SimpleQueue.put` is safe there.
        self._asked: SimpleQueue[float | None] = SimpleQueue()

    @contextmanager
    def heard(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Let each signal stop the service; call `give_up`, which must not return, in time."""
        watch = threading.Thread(target=self._watch, args=(give_up,), daemon=True)
        watch.start()
        try:
            with stop_signals(self._hear, self._service.wake_descriptor):
                yield
        finally:
            self._asked.put(None)
            watch.join()

    def code_before_work(self) -> int:
        """Return the exit code of a worker that was stopped before it had begun."""
        return EXIT_INTERRUPTED if self._first == signal.SIGINT else EXIT_DONE

    def _hear(self, number: int) -> None:
        if self._first is None:
            self._first = number
        self._service.stop()
        self._asked.put(self._seconds)
        self._seconds = 0.0

    def _watch(self, give_up: Callable[[], None]) -> None:
        seconds = self._asked.get()
        deadline = float("inf")
        while seconds is not None:
            deadline = min(deadline, time.monotonic() + seconds + LATE_SECONDS)
            try:
                seconds = self._asked.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                give_up()
