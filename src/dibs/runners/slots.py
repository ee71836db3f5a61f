"""A runner's slots.

Owns: which slots are free, and per slot which job runs in it since when, marked in the black box.
Must never: be unmarked early: a slot is marked before its job starts and cleared after its outcome
is handed over, so what is marked when the process dies was running.
Called by: the loop and the thread runner (`enter`, `leave`).
"""

import asyncio
from time import monotonic_ns
from typing import Final

from dibs.message import Lease, Outcome
from dibs.runners.blackbox import WORDS, BlackBox
from dibs.runners.execute import SlowTasks
from dibs.runners.outbox import Outbox
from dibs.running import JobContext, current
from dibs.task import AnyTask

RELIEF: Final = 256
"""So many outcomes, about a millisecond of the quickest jobs, and a slot sends them itself."""

Item = tuple[int, Lease, AnyTask]
"""A job in a runner: its serial, its lease, and the task to call."""


class Slot:
    """Room for one running job. `owner` is the asyncio task at work in it, if one is."""

    __slots__ = ("_mark", "_outbox", "_slow", "_started", "_words", "job", "owner", "serial")

    def __init__(self, index: int, box: BlackBox, outbox: Outbox, slow: SlowTasks) -> None:
        self.job: JobContext | None = None
        self.owner: asyncio.Task[None] | None = None
        self.serial = -1
        self._mark = WORDS * index
        self._words = box.words
        self._outbox = outbox
        self._slow = slow
        self._started = 0

    def enter(self, serial: int, lease: Lease) -> JobContext:
        """Mark the slot as running this job, and make the job's context current."""
        words, mark = self._words, self._mark
        self._started = words[mark] = started = monotonic_ns()
        words[mark + 1] = serial + 1
        self.serial = serial
        self.job = job = JobContext(lease, started / 1e9 + lease.message.timeout_ms / 1_000)
        current.set(job)
        return job

    def leave(self, item: Item, outcome: Outcome | None) -> int:
        """Hand over the outcome, None for a plain `Ack()`, and clear the slot.

        Returns the time, in nanoseconds of the monotonic clock.
        """
        serial, lease, task = item
        outbox = self._outbox
        if outcome is None:
            acked = outbox.acked
            acked.append(serial)
            if len(acked) >= RELIEF:
                outbox.relieve()
            elif not outbox.awake:
                outbox.wake()
        else:
            outbox.put(serial, outcome)
        self._words[self._mark] = 0
        self.job = None
        ended = monotonic_ns()
        ran = ended - self._started
        # 0.1 s: no limit is near for the many that are quicker, and they are spared the call.
        if ran > 100_000_000:
            self._slow.look(task, lease, ran)
        return ended


class Slots:
    """The slots of one runner, shared by its loop and its threads.

    `free` is a stack; `list.append` and `list.pop` are atomic in CPython, so it needs no lock.
    """

    def __init__(self, box: BlackBox, count: int, outbox: Outbox, slow: SlowTasks) -> None:
        self.all = [Slot(index, box, outbox, slow) for index in range(count)]
        self.free = list(self.all)

    def find(self, serial: int) -> Slot | None:
        """Return the slot that runs the job, if one does."""
        return next((s for s in self.all if s.serial == serial and s.job is not None), None)
