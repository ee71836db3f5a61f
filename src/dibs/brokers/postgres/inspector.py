"""What lies in the schema, for people and dashboards, what they do about it, and what is set wrong.

Owns: what a row means: text is stored escaped as in JSON, since no column holds a zero byte.
Must never: hold SQL; the functions are in migrations/0005_inspect.sql. Called by: `PostgresBroker`.
"""

import json
from collections.abc import Sequence
from typing import Any

from dibs.brokers import checks, contract
from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import GONE, REDRIVEN, Answered, Duplicate, Finding, Page
from dibs.brokers.privacy import connection
from dibs.errors import BrokerRefused
from dibs.message import Attempt, Error, JobView, Lease, Message, QueueCounts, Result
from dibs.states import State
from dibs.wires.libpq.arrays import INT2, INT4, INT8, TEXT, UUID, array_of
from dibs.wires.libpq.session import Row, Session

BATCH = 5_000
STEP = 2_500  # purged in one transaction
LISTINGS = {
    State.READY: "list_ready",
    State.SCHEDULED: "list_scheduled",
    State.IN_FLIGHT: "list_leased",
    State.DEAD: "list_dead",
}
COLUMNS = {
    "due_ms": INT8,
    "priority": INT2,
    "visibility_timeout_ms": INT8,
    "timeout_ms": INT8,
    "max_attempts": INT4,
    "max_crashes": INT4,
    "max_lost": INT4,
    "unique_key": TEXT,
    "headers": TEXT,
    "version": INT8,
}
"""The fields of a message that follow its arguments, and what is stored of each."""


class PostgresInspector(contract.Inspector):
    """Each look is one statement, and so of one moment; each move is one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def check(self) -> None:
        """Refuse what would break the contract.

        Raises:
            BrokerRefused: a setting would; the text says how to mend it.
        """
        for finding in self.findings():
            if finding.verdict == "bad":
                raise BrokerRefused(
                    f"{self._session.shown}: {finding.what} is {finding.found}: {finding.advice}"
                )

    def findings(self) -> list[Finding]:
        """Look at what the server is set to, and who can read along on the way to it."""
        found = [Finding(*row) for row in self._session.call("findings")]
        return [*found, connection(*self._session.way(), "use sslmode=verify-full")]

    def queues(self) -> list[QueueCounts]:
        """Count every queue, by name."""
        return [
            QueueCounts(name, ready, later, held, dead, None if ms is None else ms / 1_000, paused)
            for name, ready, later, held, dead, ms, paused in self._session.call("counts")
        ]

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> Page:
        """List the jobs of one state; a place is the three numbers of its listing."""
        if limit <= 0:
            return Page([], None)
        start = (-1, -1, -1) if state is State.READY else (-(2**62), 0, 0)
        place = start if after is None else tuple(map(int, after.split(".")))
        verb = f"(job).*, now, x, y, z {LISTINGS[state]}"
        rows = self._session.call(verb, queue, *place, limit)
        following = ".".join(map(str, rows[-1][-3:])) if len(rows) == limit else None
        return Page([_view(row) for row in rows], following)

    def job(self, id: bytes) -> JobView | None:
        """Look one job up."""
        rows = self._session.call("(job).*, now, x, y, z look_up", id.hex())
        return _view(rows[0]) if rows else None

    def redrive(self, ids: Sequence[bytes]) -> list[Answered]:
        """Send dead letters back, all in one step, and ring for them."""
        _check_count(ids)
        rows = self._session.call("redrive", array_of(UUID, ids)) if ids else []
        back = sorted({queue for _, answer, queue in rows if answer is None})
        if back:
            self._session.call("ring", array_of(TEXT, back), None)
        told: dict[str | None, Answered] = {None: REDRIVEN, "gone": GONE}
        return [
            told[answer] if answer in told else Duplicate(bytes.fromhex(answer.replace("-", "")))
            for _, answer, _ in rows
        ]

    def discard(self, ids: Sequence[bytes]) -> int:
        """Remove dead letters, all in one step."""
        _check_count(ids)
        return int(self._session.call("discard", array_of(UUID, ids))[0][0])

    def purge(self, queue: str) -> int:
        """Remove what waits, a step at a time, up to what was published last before the first."""
        last = self._session.call("last_place")[0][0]
        steps = [self._purged(queue, last)]
        while steps[-1] == STEP:
            steps.append(self._purged(queue, last))
        return sum(steps)

    def _purged(self, queue: str, last: int) -> int:
        return int(self._session.call("purge", queue, last, STEP)[0][0])

    def pause(self, queue: str) -> None:
        """Note it where the next claim of any worker finds it."""
        checks.queue_names([queue])
        self._session.call("pause", queue, "true")

    def resume(self, queue: str) -> None:
        """Take the note away, and wake a worker for what has waited."""
        self._session.run(
            [("pause", queue, "false")], after=("ring", array_of(TEXT, [queue]), None)
        )


def _check_count(ids: Sequence[bytes]) -> None:
    checks.how_many(len(ids), Capabilities("D2", "", BATCH, 0))


def _view(row: Row) -> JobView:
    fence, failures, crashes, lost, waiting, died, reason, error, expiry, due, attempts = row[14:25]
    at, now = row[26:28]
    state, since, until = State.READY, waiting, None
    if at == "dead":
        state, since = State.DEAD, died
    elif at == "lease" and expiry > now:
        state, since, until = State.IN_FLIGHT, None, expiry
    elif at == "scheduled" and due > now:
        state, since, until = State.SCHEDULED, None, due
    why = (reason, None if error is None else _error(error), _attempts(attempts))
    return JobView(message_of(row), state, fence, failures, crashes, lost, since, until, *why)


def result_of(id: bytes, row: Any) -> Result:
    """Make a result of a row that holds its value, or the reason and history of a dead letter."""
    value, reason, error, attempts, kept = row
    if error is None:
        return Result(id, value, kept=bool(kept))
    return Result(id, None, reason, _error(error), _attempts(attempts))


def _error(stored: str) -> Error:
    kind, message, traceback = json.loads(stored)
    return Error(kind, message, traceback)


def _attempts(stored: str) -> tuple[Attempt, ...]:
    kept = json.loads(stored)
    return tuple(Attempt(fence, at, charge, Error(*error)) for fence, at, charge, error in kept)


def stored_field(name: str, message: Message) -> Any:
    """Return a field of a message as its column has it."""
    value = getattr(message, name)
    if name == "headers":
        return json.dumps(value) if value else None
    return json.dumps(value, ensure_ascii=False)[1:-1] if isinstance(value, str) else value


def message_of(row: Row) -> Message:
    """Return the message of a row that begins with its fields."""
    id, queue, task, args, due, priority, held, run, attempts, crashes, lost, *rest = row[:14]
    key, headers, version = rest
    return Message(
        id, queue, _text(task), args, due, priority, held, run, attempts, crashes, lost,
        None if key is None else _text(key), json.loads(headers) if headers else {}, version,
    )  # fmt: skip


def lease_of(row: Row) -> Lease:
    """Return the lease of a row that has its message first."""
    return Lease(message_of(row), *row[14:])


def _text(stored: str) -> str:
    return str(json.loads(f'"{stored}"')) if "\\" in stored else stored
