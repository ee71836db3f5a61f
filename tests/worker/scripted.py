"""A runner that a test plays by hand, and a pump around it in virtual time.

The runner is the seam that DESIGN names: frames go in, the test decides what comes out. Broker,
pump, crew, leases, settler and upkeep are the real ones.
"""

from collections.abc import Sequence
from itertools import count
from typing import TypeVar

from dibs.backoff import exponential
from dibs.brokers.contract import Broker
from dibs.brokers.memory import open_memory
from dibs.events import Event, Settled
from dibs.message import Outcome, TaskInfo
from dibs.runners.contract import Await, Done, Down, Hello, Start, StopJob, Up, Withdraw
from dibs.testing.clock import ManualClock
from dibs.worker.crew import Crew
from dibs.worker.pump import Pump
from dibs.worker.seams import Seams

_stores = count()
E = TypeVar("E")


class ScriptedRunner:
    """Does what the test says: `start`, `finish`, `die`."""

    def __init__(self, clock: ManualClock, pid: int, slots: int) -> None:
        self.clock = clock
        self.pid = pid
        self.slots = slots
        self.got: list[Down] = []
        self.out: list[Up] = []
        self.at: dict[int, float] = {}
        self.queued: list[int] = []
        self.how: str | None = None
        self.killed = False

    def filenos(self) -> Sequence[int]:
        return []

    def unsent(self) -> Sequence[int]:
        return []

    def flush(self) -> None: ...

    def send(self, frame: Down) -> None:
        self.got.append(frame)
        if isinstance(frame, Start | Await):
            self.queued += range(frame.first, frame.first + len(frame.leases))

    def receive(self) -> list[Up]:
        frames, self.out = self.out, []
        return frames

    def death(self) -> str | None:
        return self.how

    def running(self) -> dict[int, float]:
        return dict(self.at)

    def last(self) -> set[int]:
        return set(self.at)

    def kill(self) -> None:
        self.killed = True
        self.how = "signal SIGKILL"

    def close(self) -> None: ...

    def hello(self, *tasks: TaskInfo) -> None:
        self.out.append(Hello("memory://", list(tasks), []))

    def start(self, *serials: int) -> None:
        for serial in serials or list(self.queued):
            self.queued.remove(serial)
            self.at[serial] = self.clock.monotonic()

    def finish(self, *serials: int) -> None:
        for serial in serials:
            self._forget(serial)
        self.out.append(Done(list(serials), [], 1_000_000))

    def end(self, serial: int, outcome: Outcome) -> None:
        self._forget(serial)
        self.out.append(Done([], [(serial, outcome)], 1_000_000))

    def die(self, how: str = "signal SIGSEGV") -> None:
        self.how = how

    def stops(self) -> list[StopJob]:
        return [frame for frame in self.got if isinstance(frame, StopJob)]

    def withdrawals(self) -> int:
        return sum(isinstance(frame, Withdraw) for frame in self.got)

    def _forget(self, serial: int) -> None:
        self.at.pop(serial, None)
        if serial in self.queued:
            self.queued.remove(serial)


PLAIN = TaskInfo("resize", "photos", "async", True, 0, "app.py:1", exponential())
SILENT = TaskInfo("silent", "photos", "async", False, 0, "app.py:2", exponential())
HEAVY = TaskInfo("transcode", "videos", "process", True, 0, "app.py:3", exponential())


class Stage:
    """A pump on a memory broker, with scripted runners and a clock that the test moves."""

    def __init__(self, *tasks: TaskInfo, slots: Sequence[int] = (4,), solos: int = 2) -> None:
        self.clock = ManualClock()
        self.tasks = tasks or (PLAIN,)
        self.events: list[Event] = []
        self.runners: list[ScriptedRunner] = []
        self.spawn_error: OSError | None = None
        self.store = f"stage-{next(_stores)}"
        self.broker = self.open(b"pump")
        self.producer = self.open(b"prod")
        self.crew = Crew(self._spawn, list(slots), solos, self.events.append)
        seams = Seams(self.clock, lambda low, _: low, self.events.append)
        self.pump = Pump(
            broker=self.broker,
            queues=["photos", "videos"],
            crew=self.crew,
            tasks={},
            seams=seams,
            grace_seconds=30.0,
        )
        self.broker.declare(["photos", "videos"])
        self.crew.start(self.clock.monotonic())
        self.tick()

    def open(self, worker_id: bytes) -> Broker:
        return open_memory(self.store, clock=self.clock, worker_id=worker_id)

    def tick(self, ms: int = 0) -> float | None:
        self.clock.advance(ms)
        return self.pump.tick(rung=True)

    def settled(self) -> Settled:
        """Return the sum of all settlements so far."""
        parts = [event for event in self.events if isinstance(event, Settled)]
        names = Settled.__struct_fields__
        totals = (sum(getattr(part, name) for part in parts) for name in names if name != "held")
        return Settled(*totals)

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def counts(
        self, queue: str = "photos"
    ) -> tuple[int | None, int | None, int | None, int | None]:
        """Return ready, scheduled, in flight and dead."""
        found = {c.name: c for c in self.broker.inspector().queues()}[queue]
        return found.ready, found.scheduled, found.in_flight, found.dead

    def _spawn(self, slots: int) -> ScriptedRunner:
        if self.spawn_error is not None:
            raise self.spawn_error
        runner = ScriptedRunner(self.clock, 100 + len(self.runners), slots)
        runner.hello(*self.tasks)
        self.runners.append(runner)
        return runner
