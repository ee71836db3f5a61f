"""What lies in the queue file, for people and dashboards, and what people do about it.

Must never: hold SQL, move what it has not looked for under the lock, or hold the lock for long.
Called by: `SqliteBroker`.
"""

import json
from collections.abc import Sequence
from typing import Any

import apsw

from dibs.brokers import checks
from dibs.brokers.contract import GONE, REDRIVEN, Answered, Duplicate, Finding, Inspector, Page
from dibs.clock import Clock
from dibs.errors import OptionError
from dibs.local import disk
from dibs.local.arrays import integers
from dibs.local.bells import Bells
from dibs.local.database import Database
from dibs.message import Attempt, Error, JobView, Message, QueueCounts, Result
from dibs.states import State

STEP = 2_500  # purged in one transaction: some 10 ms, for which a producer waits
BATCH = 5_000
LISTINGS = {
    State.READY: "ready_jobs",
    State.SCHEDULED: "scheduled_jobs",
    State.IN_FLIGHT: "leased_jobs",
    State.DEAD: "dead_jobs",
}


class SqliteInspector(Inspector):
    """Each look is one statement, and so of one moment; each move is one transaction."""

    def __init__(self, database: Database, bells: Bells, clock: Clock) -> None:
        self._db = database
        self._bells = bells
        self._clock = clock

    def queues(self) -> list[QueueCounts]:
        """Count every queue, by name."""
        wall, boot = self._clock.wall_ms(), self._clock.boot_ms()
        rows = self._db.run("counts", wall=wall, boot=boot)
        return [
            QueueCounts(name, ready, scheduled, in_flight, dead, oldest, bool(paused))
            for name, ready, scheduled, in_flight, dead, oldest, paused in rows
        ]

    def findings(self) -> list[Finding]:
        """Say which SQLite it is, and what kind of disk; opening has refused what is wrong."""
        kind = disk.file_system(self._db.path.parent)
        there = Finding("file system", kind or "unknown", "good")
        if kind in disk.IN_MEMORY:
            there = Finding("file system", kind, "note", "it is in memory: name a file on a disk")
        version = Finding("SQLite", apsw.sqlite_lib_version(), "good")
        return [version, Finding("settings", "WAL, synchronous=FULL, read back", "good"), there]

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> Page:
        """List the jobs of one state; a place is the three numbers of `inspect.sql`."""
        if limit <= 0 or not (range_ := self._db.run("queue_range", queue)):
            return Page([], None)
        ((first, last),) = range_
        wall, boot = self._clock.wall_ms(), self._clock.boot_ms()
        start = (first, -1, 0) if state is State.READY else (-(2**62), 0, 0)
        a, b, c = start if after is None else map(int, after.split("."))
        given = {"a": a, "b": b, "c": c, "first": first, "last": last, "limit": limit}
        rows = self._db.run(LISTINGS[state], **given, wall=wall, boot=boot)
        following = ".".join(map(str, rows[-1][-3:])) if len(rows) == limit else None
        return Page(self._views(rows, wall, boot), following)

    def job(self, id: bytes) -> JobView | None:
        """Look one job up."""
        wall, boot = self._clock.wall_ms(), self._clock.boot_ms()
        return next(iter(self._views(self._db.run("job", id), wall, boot)), None)

    def _views(self, rows: list[Any], wall: int, boot: int) -> list[JobView]:
        with self._db.reading():
            return [_view(row, wall, boot) for row in rows]

    def redrive(self, ids: Sequence[bytes]) -> list[Answered]:
        """Send dead letters back, all in one step, and ring for them."""
        _check_count(ids)
        queues: set[str] = set()
        now = self._clock.wall_ms()
        answers = self._db.write(lambda: [self._redriven(id, now, queues) for id in ids])
        self._bells.ring(queues)
        return answers

    def _redriven(self, id: bytes, now: int, queues: set[str]) -> Answered:
        for seq, queue, holder in self._db.run("dead_letter", id):
            if holder is not None:
                return Duplicate(holder)
            self._db.run("redrive", seq=seq, now=now)
            queues.add(queue)
            return REDRIVEN
        return GONE

    def discard(self, ids: Sequence[bytes]) -> int:
        """Remove dead letters, all in one step."""
        _check_count(ids)
        return self._db.write(lambda: self._discarded(ids))

    def _discarded(self, ids: Sequence[bytes]) -> int:
        seqs = {row[0] for id in ids for row in self._db.run("dead_letter", id)}
        self._db.run("discard", seqs=integers(seqs))
        return len(seqs)

    def purge(self, queue: str) -> int:
        """Remove what waits, a step at a time, up to what was published last before the first."""
        ((last,),) = self._db.run("last_published")
        of = {"queue": queue, "last": last, "boot": self._clock.boot_ms(), "page": STEP}
        steps = [self._db.write(lambda: self._purged(of))]
        while steps[-1] == STEP:
            steps.append(self._db.write(lambda: self._purged(of)))
        return sum(steps)

    def _purged(self, of: dict[str, Any]) -> int:
        seqs = self._db.run("purgeable", **of)
        self._db.run("purge", seqs=integers(seq for (seq,) in seqs))
        return len(seqs)

    def pause(self, queue: str) -> None:
        """Note it in the file, where the next claim of any worker finds it."""
        checks.queue_names([queue])
        self._db.write(lambda: [self._db.run(verb, queue) for verb in ("add_queue", "pause")])

    def resume(self, queue: str) -> None:
        """Take the note away, and wake a worker for what has waited."""
        self._db.write(lambda: self._db.run("resume", queue))
        self._bells.ring([queue])


def _check_count(ids: Sequence[bytes]) -> None:
    if len(ids) > BATCH:
        raise OptionError(f"{len(ids):,} ids: move {BATCH:,} dead letters at most at a time")


def _view(row: Any, wall: int, boot: int) -> JobView:
    """Make a view of a row of `seen`, whose state is where a claim at this moment would find it."""
    fence, failures, crashes, lost, waiting, died, reason, error, expiry, due, attempts = row[14:25]
    state, since, until = State.READY, waiting, None
    if died is not None:
        state, since, until = State.DEAD, died, None
    elif expiry is not None and expiry > boot:
        state, since, until = State.IN_FLIGHT, None, wall + expiry - boot
    elif due is not None and due > wall:
        state, since, until = State.SCHEDULED, None, due
    why = (reason, None if error is None else _error(error), _attempts(attempts))
    counters = (fence, failures, crashes, lost)
    return JobView(_message(row), state, *counters, since, until, *why)


def _message(row: Any) -> Message:
    """Make a message of a row that begins with its fields in their order."""
    id, queue, task, args, due, priority, lease, run, failures, crashes, lost, *rest = row[:14]
    key, headers, version = rest
    return Message(
        id, queue, task, args, due, priority, lease, run, failures, crashes, lost,
        key, json.loads(headers) if headers else {}, version,
    )  # fmt: skip


def result_of(id: bytes, row: Any) -> Result:
    """Make a result of a row that holds its value, or the reason and history of a dead letter."""
    value, reason, error, attempts, kept = row
    if error is None:
        return Result(id, value, kept=bool(kept))
    return Result(id, None, reason, _error(error), _attempts(attempts))


def _error(text: str) -> Error:
    """Read an error as a dead letter keeps it; `json` carries even a lone surrogate."""
    kind, message, traceback = json.loads(text)
    return Error(kind, message, traceback)


def _attempts(text: str) -> tuple[Attempt, ...]:
    kept = sorted(json.loads(text))
    return tuple(Attempt(fence, at, charge, Error(*error)) for fence, at, charge, error in kept)
