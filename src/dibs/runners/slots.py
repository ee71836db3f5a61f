"""A runner's slots, and how the loop and the threads share them.

Owns: which slots are free, who gets one next, and per slot which job runs in it since when, marked
in the black box.
Must never: be unmarked early: a slot is marked before its job starts and cleared after its outcome
is handed over, so what is marked when the process dies was running.
Called by: the loop and the thread runner (`take`, `put_back`, `enter`, `leave`).
"""

import asyncio
from collections import deque
from collections.abc import Callable
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


class Share:
    """One side's way to the slots; the other side is its `rival`.

    Whoever is short of a slot is handed one by the other side, at the end of a job. It is handed to
    it, and not left to be taken: a side that is busy would always be the first to take it back.
    """

    def __init__(self, slots: Slots, wake: Callable[[], None]) -> None:
        self.queue: deque[Item] = deque()
        """The jobs that wait for a slot."""
        self.rival: Share = self
        self._wake = wake
        self._slots = slots
        self._handed: list[Slot] = []

    def can_start(self) -> bool:
        """Whether somebody should look: there is a job and a slot, or a slot to be given back."""
        return bool(self._handed) or bool(self.queue and self._slots.free)

    def take(self) -> Slot | None:
        """Return a slot for the next job, or None: there is no job, or no slot for it."""
        if self.queue:
            for slots in (self._handed, self._slots.free):
                try:
                    return slots.pop()
                except IndexError:
                    continue
        return None

    def put_back(self, slot: Slot) -> None:
        """Give a slot up: to the rival, if it has jobs."""
        # First of all, so that whoever looks from now on finds it: the rival's job may have come
        # right after we saw that it has none.
        self._slots.free.append(slot)
        if self.rival.queue:
            self.rival.be_handed()

    def be_handed(self) -> None:
        """Keep a free slot for a job of this side, and wake who runs it."""
        try:
            self._handed.append(self._slots.free.pop())
        except IndexError:
            return  # somebody took it just now, and puts it back after a job
        self._wake()

    def is_short(self) -> bool:
        """Whether a job waits here and no slot is on its way to it."""
        return bool(self.queue) and not self._slots.free and not self._handed

    def rest(self) -> None:
        """Give up what was handed over for jobs that are gone; to be called before a wait."""
        while self._handed and not self.queue:
            try:
                self.put_back(self._handed.pop())
            except IndexError:
                return
