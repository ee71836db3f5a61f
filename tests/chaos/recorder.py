"""Writes down what a worker asks its broker, and what it answers, as a history.

Owns: the lines of a history, one per call, and how they are read again.
Must never: change a call or its answer, or hold a line back: whoever is killed has written what it
asked for before it asked.
Called by: `tests/launch.py` in the pump's process, and the chaos tests, which read.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from dibs.brokers import contract
from dibs.message import Lease, Message, Nack, Outcome, Release, Settlement
from tests.chaos.history import NO_JOB, Event, Op, Type

Row = tuple[int, int, int, float]
"""A job, its fence, its attempt, and the seconds of `Event.seconds`."""


NOTHING: Row = (NO_JOB, 0, 0, 0.0)
"""What a claim was granted that found nothing."""

SLOW_SECONDS = 0.25
"""A call that took longer than this is written down once more, with its time."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One call, or its answer, for many jobs."""

    op: Op
    type: Type
    t: float
    proc: str
    wall: float
    rows: list[Row]


class Recorder:
    """A file that a process appends its lines to, each in one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._proc = str(os.getpid())

    def write(self, op: Op, kind: Type, rows: list[Row], t: float | None = None) -> None:
        """Write a line; `t`: when it was, if not now."""
        at = time.monotonic() if t is None else t
        line = Line(op, kind, at, self._proc, time.time(), rows)
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    @contextmanager
    def timed(self) -> Iterator[float]:
        """Write down how long a call takes that is slow, however it ends; yield when it began."""
        began = time.monotonic()
        try:
            yield began
        finally:
            took = time.monotonic() - began
            if took > SLOW_SECONDS:
                self.write("call", "ok", [(NO_JOB, 0, 0, took)])


class Reader:
    """Reads a history, also while it is still being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.events: list[Event] = []

    def more(self) -> list[Event]:
        """Return the events that are new since the last time; `events` are all of them.

        The last line of who was killed may be cut short.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        new = [event for text in whole.splitlines() for event in events_of(text)]
        self.events += new
        return new


def events_of(text: bytes) -> Iterator[Event]:
    """Yield what a line says, if it was not cut short."""
    try:
        line = msgspec.json.decode(text, type=Line)
    except msgspec.DecodeError:
        return
    for row in line.rows:
        yield Event(line.op, line.type, line.t, line.proc, *row, line.wall)


def number_of(message: Message) -> int:
    """Return the number that the chaos tests have made a job's id of."""
    return int.from_bytes(message.id)


def record_into(path: Path) -> None:
    """Have every call of the broker that `dibs worker` opens here written down."""
    from dibs.cli import broker as cli

    opened = cli.opened

    def opening(url: str) -> contract.Broker:
        broker = opened(url)
        listen(broker, Recorder(path))
        return broker

    cli.opened = opening


def listen(broker: contract.Broker, recorder: Recorder) -> None:
    """Have the calls of a broker written down."""
    claim, extend, settle = broker.claim, broker.extend, broker.settle
    unsure: set[tuple[bytes, int]] = set()

    def claiming(queues: Sequence[str], limit: int) -> contract.Claim:
        with recorder.timed() as asked_at:
            found = claim(queues, limit)
        rows = [row_of(lease, lease.message.visibility_timeout_ms) for lease in found.leases]
        if limit:  # a claim of nothing only says that the worker stops
            recorder.write("claim", "invoke", rows or [NOTHING], asked_at)
            recorder.write("claim", "ok", rows or [NOTHING])
        return found

    def extending(leases: Sequence[Lease]) -> list[contract.Extended]:
        with recorder.timed() as asked_at:
            answers = extend(leases)
        held = [
            row_of(lease, answer.seconds * 1_000)
            for lease, answer in zip(leases, answers, strict=True)
            if isinstance(answer, contract.Held)
        ]
        recorder.write("extend", "invoke", held, asked_at)
        recorder.write("extend", "ok", held)
        return answers

    def settling(settlements: Sequence[Settlement]) -> list[contract.Settled]:
        for op, rows in by_outcome(settlements):
            recorder.write(op, "invoke", rows)
        before = set(unsure)
        unsure.update(key_of(settlement) for settlement in settlements)
        with recorder.timed():
            answers = settle(settlements)
        kinds: dict[Type, list[Settlement]] = {"ok": [], "fail": [], "gone": []}
        for settlement, answer in zip(settlements, answers, strict=True):
            if isinstance(answer, contract.Unknown):
                continue
            unsure.discard(key_of(settlement))
            again = isinstance(answer, contract.Gone) and key_of(settlement) in before
            applied = isinstance(answer, contract.Applied)
            kinds["ok" if applied else "gone" if again else "fail"].append(settlement)
        for kind, some in kinds.items():
            for op, rows in by_outcome(some):
                recorder.write(op, kind, rows)
        return answers

    for name, function in {"claim": claiming, "extend": extending, "settle": settling}.items():
        setattr(broker, name, function)


def key_of(settlement: Settlement) -> tuple[bytes, int]:
    """Return which lease a settlement ends."""
    return settlement.lease.message.id, settlement.lease.fence


def by_outcome(settlements: Sequence[Settlement]) -> Iterator[tuple[Op, list[Row]]]:
    """Yield what is settled alike."""
    ops: dict[str, Op] = {"Ack": "ack", "Nack": "nack", "Release": "release", "DeadLetter": "dead"}
    for name, op in ops.items():
        some = [s for s in settlements if type(s.outcome).__name__ == name]
        if some:
            yield op, [row_of(s.lease, delay_ms(s.outcome)) for s in some]


def row_of(lease: Lease, ms: float) -> Row:
    """Return what a line says of a lease."""
    return number_of(lease.message), lease.fence, lease.attempt, ms / 1_000


def delay_ms(outcome: Outcome) -> int:
    """Return the delay of an outcome that has one."""
    return outcome.delay_ms if isinstance(outcome, Nack | Release) else 0
