"""What a signal to stop does to `dibs worker`.

Owns: the end while there is nothing to stop in order yet; then the stop in order; and the last
resort, where the broker does not answer (another process may be stopped inside a commit) and the
worker ends all the same, when it said it would.
Must never: end a worker in disorder that could still end in order, or raise in a handler.
Called by: `worker.py`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from dibs.cli import EXIT_INTERRUPTED
from dibs.cli.lines import Write
from dibs.errors import DibsError
from dibs.worker.service import EXIT_DONE, EXIT_RELEASED_LATE, Service, StoppedEarly
from dibs.worker.signals import stop_signals

LATE_SECONDS = 1.5
"""How long after its time a worker may still be ending in order; two are promised."""


class Stops:
    """Hears the signals: `seconds` is the shutdown timeout, a second signal ends it at once."""

    def __init__(self, service: Service, seconds: float, write: Write) -> None:
        self._service = service
        self._seconds = seconds
        self._write = write
        self._first: int | None = None
        self._at_work = False
        # A signal may interrupt the handling of another: `SimpleQueue.put` is safe there.
        self._asked: SimpleQueue[float | None] = SimpleQueue()

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._first is not None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals: each stops the service, and what does not end in time is ended."""
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            with stop_signals(self._hear, self._service.wake_descriptor):
                yield
        finally:
            self._asked.put(None)
            watch.join()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Within it nothing is held yet: who was asked to stop ends where it ends.

        Raises:
            SystemExit: a stop was asked for, whatever else was raised within it.
        """
        try:
            yield
        except (StoppedEarly, DibsError):
            self.end_if_asked()
            raise
        self._at_work = True  # first: a signal after the look has the shutdown timeout
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """End a worker that has not begun, if a stop was asked for.

        Raises:
            SystemExit: it was.
        """
        if self._first is not None:
            raise SystemExit(self._code_before_work())

    def _code_before_work(self) -> int:
        return EXIT_INTERRUPTED if self._first == signal.SIGINT else EXIT_DONE

    def _hear(self, number: int) -> None:
        if self._first is None:
            self._first = number
        self._service.stop()
        self._asked.put(self._seconds if self._at_work else 0.0)
        self._seconds = 0.0

    def _watch(self) -> None:
        seconds = self._asked.get()
        deadline = float("inf")
        while seconds is not None:
            deadline = min(deadline, time.monotonic() + seconds + LATE_SECONDS)
            try:
                seconds = self._asked.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                self._give_up()

    def _give_up(self) -> None:
        self._service.kill()
        if not self._at_work:
            os._exit(self._code_before_work())
        self._write("the broker does not answer: jobs held here return when their leases run out\n")
        os._exit(EXIT_RELEASED_LATE)
