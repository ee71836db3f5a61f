"""Jobs that keep coming, through the real producer's handle, each until it is confirmed.

Owns: a thread with a broker of its own, and what it asked and was answered.
Must never: give a job up whose publish failed, or call one confirmed that was not.
Called by: the field.
"""

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from dibs.brokers.contract import Broker, Published
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.errors import BrokerError, PublishUnknown
from dibs.message import Message
from dibs.producer.handle import Handle
from tests.chaos.history import NO_JOB, Event, Type
from tests.chaos.recorder import SLOW_SECONDS

PRODUCER = "producer"
TASKS = {"works": 7, "works_def": 3}
MOST_AT_ONCE = 200
AGAIN_SECONDS = 0.1
SURGE_JOBS = 80
SURGE_SECONDS = 0.5
STOP_SECONDS = 60.0
MAX_LOST = 1_000
"""A worker that is killed every two seconds would use up the budget of a job that takes three."""


class Pace(Struct, frozen=True):
    """How jobs come: `jobs` at least, `a_second`, so that of `slots` more than half are busy.

    Some jobs take two leases and a half, and a fifth of the slots, and so do the first few: whose
    pump is stopped for three finds them done, and in another's hands. All others are short.
    """

    jobs: int
    a_second: float
    slots: int
    lease_seconds: float

    def seconds(self, number: int, chance: random.Random) -> float:
        """Return how long the job of a number takes."""
        long = 2.5 * self.lease_seconds
        if number <= self.slots // 4 or chance.random() < 0.2 * self.slots / self.a_second / long:
            return long
        return 0.4 * self.slots / self.a_second * chance.choice([0.0, 0.5, 1.0, 2.5])


class Load:
    """Publishes jobs, `most` at once; a job's number is its id, of no other run on the server."""

    def __init__(self, url: str, queue: str, pace: Pace, most: int, seed: int) -> None:
        self.events: list[Event] = []
        self.confirmed: set[int] = set()
        self.error: BaseException | None = None
        self._url = url
        self._queue = queue
        self._pace = pace
        self._most = most
        self._chance = random.Random(seed + 1)
        self._handle = Handle(self._open)
        self._finish = threading.Event()
        self._abandoned = threading.Event()
        self._surging = False
        self._run_number = int.from_bytes(os.urandom(2)) << 32
        self._last = 0
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    @contextmanager
    def surge(self) -> Iterator[None]:
        """More than one worker can take at once, again and again."""
        self._surging = True
        yield
        self._surging = False

    def finish(self) -> None:
        """Publish what is missing of all that was to come, and end."""
        self._finish.set()
        self._thread.join(STOP_SECONDS)
        if self.error is not None:
            raise self.error
        assert not self._thread.is_alive(), "what was to be published could not be"

    def abandon(self) -> None:
        """End, whatever is missing."""
        self._abandoned.set()
        self._finish.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._publish_all()
        except BaseException as error:
            self.error = error
        finally:
            self._handle.close()

    def _publish_all(self) -> None:
        began = surged_at = time.monotonic()
        while not self._finish.wait(0.05):
            now = time.monotonic()
            due = round(self._pace.a_second * (now - began)) - self._last
            if self._surging and now > surged_at + SURGE_SECONDS:
                surged_at = now
                self._publish([self._message(0.1) for _ in range(min(SURGE_JOBS, self._most))])
            elif due > 0:
                self._publish([self._message() for _ in range(min(due, self._most))])
        while self._last < self._pace.jobs and not self._abandoned.is_set():
            count = min(self._pace.jobs - self._last, self._most)
            self._publish([self._message() for _ in range(count)])

    def _publish(self, messages: list[Message]) -> None:
        left = messages
        while left and not self._abandoned.is_set():
            try:
                verdicts = self._handle.publish(left)
            except BrokerError:
                self._abandoned.wait(AGAIN_SECONDS)
                continue
            sure = [m for m, verdict in zip(left, verdicts, strict=True) if verdict == m.id]
            for verdict in verdicts:
                if isinstance(verdict, BaseException) and not isinstance(verdict, PublishUnknown):
                    raise verdict
            self._note("ok", sure)
            self.confirmed.update(int.from_bytes(message.id) for message in sure)
            left = [m for m in left if int.from_bytes(m.id) not in self.confirmed]

    def _message(self, seconds: float | None = None) -> Message:
        self._last += 1
        (task,) = self._chance.choices(list(TASKS), list(TASKS.values()))
        if seconds is None:
            seconds = self._pace.seconds(self._last, self._chance)
        number = self._run_number + self._last
        return Message(
            number.to_bytes(16),
            self._queue,
            task,
            b'{"n":%d,"seconds":%g}' % (number, seconds),
            visibility_timeout_ms=round(self._pace.lease_seconds * 1_000),
            max_lost=MAX_LOST,
        )

    def _note(self, kind: Type, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        numbers = [int.from_bytes(message.id) for message in messages]
        self.events += [Event("publish", kind, now, PRODUCER, number) for number in numbers]

    def _open(self) -> Broker:
        """Open the broker, and have each of its tries to publish written down."""
        broker = open_broker(self._url, worker_id=os.urandom(16), clock=SystemClock())
        publish = broker.publish

        def publishing(messages: Sequence[Message]) -> list[Published]:
            self._note("invoke", messages)
            began = time.monotonic()
            try:
                return publish(messages)
            finally:
                took = time.monotonic() - began
                if took > SLOW_SECONDS:
                    slow = Event("call", "ok", began + took, PRODUCER, NO_JOB, seconds=took)
                    self.events.append(slow)

        setattr(broker, "publish", publishing)  # noqa: B010
        return broker
