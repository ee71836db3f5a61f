"""The thread that waits for the ends of jobs, for all who wait in a process.

Owns: a broker of its own, whose bell tells it of ends, and what each caller waits with.
Must never: hold up an event loop, or leave anybody waiting who could be told: an error of the
broker is told to all.
Called by: `Producer`, for whoever waits for a job.
"""

import select
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from msgspec import Struct

from dibs.brokers.contract import Broker
from dibs.clock import Clock
from dibs.errors import BrokerUnavailable, DibsError, ResultNotKept
from dibs.message import Result
from dibs.producer.handle import keep_open, own
from dibs.producer.ids import as_text
from dibs.wakepipe import WakePipe

SAFETY_LOOK_SECONDS = 1.0
"""A bell can be lost with the process that rang it, so whoever waits looks this often."""

JOIN_SECONDS = 20.0
"""How long the end of a process waits for a look; every broker call is bounded."""


class Wait(Struct, eq=False):
    """One caller who waits for the end of the job `key`; `deadline` is on the monotonic clock."""

    key: bytes
    seconds: float | None
    deadline: float | None
    end: Future[Result]

    def tell(self, end: Result) -> None:
        """End the wait."""
        if self.end.set_running_or_notify_cancel():
            self.end.set_result(end)

    def fail(self, error: Exception) -> None:
        """End the wait by an error of the caller's own."""
        if self.end.set_running_or_notify_cancel():
            self.end.set_exception(own(error) if isinstance(error, DibsError) else error)

    def expire(self) -> None:
        """End the wait because its time is over."""
        job = as_text(self.key)
        self.fail(
            TimeoutError(f"the job {job} has not ended within {self.seconds:g} s; it goes on")
        )


class Watcher:
    """Looks once for each who asks, and then whenever its bell rings."""

    def __init__(self, open_broker: Callable[[], Broker], clock: Clock) -> None:
        self._open = open_broker
        self._clock = clock
        self._broker: Broker | None = None
        self._asked: deque[Wait] = deque()
        self._waits: list[Wait] = []
        self._wake = WakePipe()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dibs-watcher", daemon=True)
        self._thread.start()

    def ask(self, key: bytes, seconds: float | None) -> "Future[Result]":
        """Return what will have the end of a job, or `TimeoutError` after `seconds`.

        However short they are, it has been looked for then. Cancel what nobody waits for any more.
        """
        deadline = None if seconds is None else self._clock.monotonic() + seconds
        wait = Wait(key, seconds, deadline, Future())
        self._asked.append(wait)
        self._wake.ring()
        return wait.end

    def stop(self) -> None:
        """End the thread, and the waits that are left by an error."""
        self._closed = True
        self._wake.ring()
        self._thread.join(JOIN_SECONDS)

    def drop(self) -> None:
        """Give up, in a forked child, what belongs to the parent: there is no thread here."""
        self._wake.close()
        if self._broker is not None:
            keep_open(self._broker)

    def _run(self) -> None:
        while not self._closed:
            self._pause()
            self._wake.drain()
            while self._asked:
                self._waits.append(self._asked.popleft())
            try:
                while self._look():
                    pass
            except Exception as error:
                if self._waits:  # else the next to wait is told
                    self._give_up(error)
        self._waits += self._asked
        self._give_up(BrokerUnavailable("the app was closed while a job was waited for"))
        self._wake.close()

    def _pause(self) -> None:
        """Wait for a caller, for the bell, or until it is time to look."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._broker is not None:
            poll.register(self._broker.bell(), select.POLLIN)
        poll.poll(self._rest_seconds() * 1_000 if self._waits else None)

    def _rest_seconds(self) -> float:
        deadlines = [wait.deadline for wait in self._waits if wait.deadline is not None]
        rest = min(deadlines, default=self._clock.monotonic() + SAFETY_LOOK_SECONDS)
        return min(SAFETY_LOOK_SECONDS, max(0.0, rest - self._clock.monotonic()))

    def _look(self) -> bool:
        """Look how the jobs ended; say whether fewer are awaited now than the broker was told."""
        self._waits = [wait for wait in self._waits if not wait.end.cancelled()]
        if not self._waits and self._broker is None:
            return False
        ids = list({wait.key: None for wait in self._waits})
        ends = dict(zip(ids, self._opened().results(ids), strict=True))
        now = self._clock.monotonic()
        waits, self._waits = self._waits, []
        expired = 0
        for wait in waits:
            if (end := ends[wait.key]) is not None:
                wait.tell(end)
            elif wait.deadline is not None and wait.deadline <= now:
                wait.expire()
                expired += 1
            else:
                self._waits.append(wait)
        return expired > 0

    def _opened(self) -> Broker:
        if self._broker is None:
            self._broker = self._open()
            self._broker.bell()
            if not self._broker.capabilities.results:
                raise ResultNotKept(f"{self._broker.url} cannot tell how a job ended")
        return self._broker

    def _give_up(self, error: Exception) -> None:
        """Tell all, and look with another broker the next time."""
        waits, self._waits = self._waits, []
        for wait in waits:
            wait.fail(error)
        broker, self._broker = self._broker, None
        if broker is not None:
            with suppress(DibsError, OSError):
                broker.close()
