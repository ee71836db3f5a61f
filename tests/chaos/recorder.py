"""Writes down what a worker asks its broker, and what it answers, as a history.

Owns: the lines of a history, one per call, and how they are read again.
Must never: change a call or its answer, or hold a line back: whoever is killed has written what it
asked for before it asked.
Called by: `tests/launch.py` in the pump's process, and the chaos tests, which read.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dibs.brokers import contract
from dibs.brokers.sqlite import SqliteBroker
from dibs.message import Lease, Message, Nack, Outcome, Release, Settlement
from tests.chaos.history import Event, Op, Type

Row = tuple[int, int, int, float]
"""A job, its fence, its attempt, and the seconds of `Event.seconds`."""


NOTHING: Row = (-1, 0, 0, 0.0)
"""What a claim was granted that found nothing."""


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


def read(path: Path) -> list[Event]:
    """Return the events of a file; the last line of who was killed may be cut short."""
    events = []
    for text in path.read_bytes().splitlines():
        try:
            line = msgspec.json.decode(text, type=Line)
        except msgspec.DecodeError:
            continue
        events += [
            Event(line.op, line.type, line.t, line.proc, *row, line.wall) for row in line.rows
        ]
    return events


def number_of(message: Message) -> int:
    """Return the number that the chaos tests have made a job's id of."""
    return int.from_bytes(message.id)


def record_into(path: Path) -> None:
    """Have every call of this process's brokers written down."""
    recorder = Recorder(path)
    claim, extend, settle = SqliteBroker.claim, SqliteBroker.extend, SqliteBroker.settle

    def claiming(self: SqliteBroker, queues: Sequence[str], limit: int) -> contract.Claim:
        asked_at = time.monotonic()
        found = claim(self, queues, limit)
        rows = [row_of(lease, lease.message.visibility_timeout_ms) for lease in found.leases]
        if limit:  # a claim of nothing only says that the worker stops
            recorder.write("claim", "invoke", rows or [NOTHING], asked_at)
            recorder.write("claim", "ok", rows or [NOTHING])
        return found

    def extending(self: SqliteBroker, leases: Sequence[Lease]) -> list[contract.Extended]:
        asked_at = time.monotonic()
        answers = extend(self, leases)
        held = [
            row_of(lease, answer.seconds * 1_000)
            for lease, answer in zip(leases, answers, strict=True)
            if isinstance(answer, contract.Held)
        ]
        recorder.write("extend", "invoke", held, asked_at)
        recorder.write("extend", "ok", held)
        return answers

    def settling(self: SqliteBroker, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        for op, rows in by_outcome(settlements):
            recorder.write(op, "invoke", rows)
        answers = settle(self, settlements)
        for kind, wanted in (("ok", True), ("fail", False)):
            pairs = zip(settlements, answers, strict=True)
            some = [s for s, answer in pairs if isinstance(answer, contract.Applied) is wanted]
            for op, rows in by_outcome(some):
                recorder.write(op, kind, rows)
        return answers

    changed: dict[str, Any] = {"claim": claiming, "extend": extending, "settle": settling}
    for name, function in changed.items():
        setattr(SqliteBroker, name, function)


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
