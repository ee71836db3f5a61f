"""A job is in one place at any moment: whoever dies, or writes, between any two statements."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dibs.brokers.contract import Applied
from dibs.brokers.sqlite import SqliteBroker
from dibs.errors import BrokerBusy
from dibs.message import Ack, DeadLetter, Nack, Settlement
from dibs.testing import ManualClock
from dibs.testing.making import (
    ERROR,
    VISIBILITY_MS,
    claim,
    claim_all,
    ids,
    messages,
    publish,
    settle,
)
from tests.regressions.seeding import finds, in_child

# What forks a program that has threads is the caller's decision, and newer Pythons warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

DAY_MS = 24 * 3_600_000
MOST_STATEMENTS = 60
MOST_READINGS = 20
PLACES = {
    "SELECT seq FROM ready",
    "SELECT seq FROM scheduled",
    "SELECT seq FROM lease",
    "SELECT seq FROM dead",
}

Verb = Callable[[SqliteBroker], object]


def opened(path: Path, clock: ManualClock) -> SqliteBroker:
    return SqliteBroker(path, worker_id=os.urandom(8), clock=clock)


# A process that dies


def die_before(number: int, broker: SqliteBroker) -> None:
    """Have this process killed when SQLite is about to begin so many statements from now."""
    left = [number]

    def trace(*_: object) -> bool:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    broker._db.connection.exec_trace = trace


def killed_at_each_statement(path: Path, prepare: Verb, verb: Verb) -> None:
    """Kill a process at each statement of `verb`; each time, look where the jobs are.

    The last try is the one that is not killed.
    """
    for number in range(1, MOST_STATEMENTS):
        clock = ManualClock()
        queue = path.with_name(f"{number}.db")
        broker = opened(queue, clock)
        prepare(broker)
        broker.close()

        def work(queue: Path = queue, number: int = number, clock: ManualClock = clock) -> None:
            broker = opened(queue, clock)
            die_before(number, broker)
            verb(broker)

        status = in_child(work)
        look_where_they_are(queue, clock)
        if status == 0:
            assert number > 3, "or nothing was cut short"
            return
        assert os.WIFSIGNALED(status), "it was to be killed"
    raise AssertionError(f"a verb has {MOST_STATEMENTS} statements")


def look_where_they_are(queue: Path, clock: ManualClock) -> None:
    broker = opened(queue, clock)
    execute = broker._db.connection.execute
    assert broker._db.connection.pragma("integrity_check") == "ok"
    stored = sorted(seq for (seq,) in execute("SELECT seq FROM message"))
    places = sorted(seq for place in PLACES for (seq,) in execute(place))
    assert stored == places, "each job is in one place"
    unlike = (
        "SELECT count(*) FROM scheduled s JOIN message m USING (seq) WHERE s.due_ms <> since_ms"
    )
    assert execute(unlike).fetchone() == (0,), "what is scheduled is found by when it may be had"
    clock.advance(DAY_MS)
    claimed = claim_all(broker)
    dead = broker.inspector().dead()
    assert len(claimed) + len(dead) == len(stored), "each job is granted again, or dead"
    broker.close()


def three_ready(broker: SqliteBroker) -> None:
    publish(broker, *messages(3))


def three_due(broker: SqliteBroker) -> None:
    clock: Any = broker._clock
    publish(broker, *messages(3, due_ms=clock.wall_ms() + 1_000))
    clock.advance(1_000)


def three_expired(broker: SqliteBroker) -> None:
    clock: Any = broker._clock
    publish(broker, *messages(3))
    claim(broker, limit=3)
    clock.advance(VISIBILITY_MS)


def publish_three(broker: SqliteBroker) -> None:
    clock: Any = broker._clock
    later = messages(1, due_ms=clock.wall_ms() + 1_000)
    publish(broker, *messages(2), *later)


def claim_three(broker: SqliteBroker) -> None:
    assert len(claim(broker, limit=3)) == 3


def end_three(broker: SqliteBroker) -> None:
    outcomes = [Nack(0, ERROR), Nack(1_000, ERROR), DeadLetter("rejected", ERROR)]
    leases = claim(broker, limit=3)
    broker.settle([Settlement(*pair) for pair in zip(leases, outcomes, strict=True)])


@finds("claims_in_two_steps", "each job is in one place")
def test_b20_a_process_that_dies_between_two_statements_of_a_claim_loses_no_job(path: Path) -> None:
    """rq 2061: a job was popped, its worker died before it was registered, and nobody looked."""
    killed_at_each_statement(path, three_ready, claim_three)


@finds("promotes_in_two_steps", "each job is in one place")
def test_b22_a_process_that_dies_while_it_moves_what_is_due_loses_no_job(path: Path) -> None:
    """rq-scheduler 222, huey 915: due jobs were deleted here, and then added there."""
    killed_at_each_statement(path, three_due, claim_three)


@finds("claims_in_two_steps", "each job is in one place")
def test_b28_a_process_that_dies_while_it_recovers_jobs_stops_no_recovery(path: Path) -> None:
    """taskiq-redis 131: whoever recovered jobs died with a lock, and nobody recovered any more."""
    killed_at_each_statement(path, three_expired, claim_three)


@finds("stores_in_two_steps", "each job is in one place")
def test_b06_a_producer_that_dies_at_any_statement_stores_all_or_nothing(path: Path) -> None:
    """celery 4354: a job was lost when a signal came between two steps of taking it over."""
    killed_at_each_statement(path, lambda _: None, publish_three)


@finds("returns_in_two_steps", "each job is in one place")
def test_b18_a_worker_that_dies_while_it_gives_jobs_back_loses_none(path: Path) -> None:
    """rq 2015: a job of a worker that was killed was in no list any more, its retries unused."""
    killed_at_each_statement(path, three_ready, end_three)


# Somebody who writes in between


class Interrupted(ManualClock):
    """At the reading that was asked for, somebody else does something."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        self.other: Callable[[], None] = lambda: None

    def wall_ms(self) -> int:
        self._look()
        return super().wall_ms()

    def boot_ms(self) -> int:
        self._look()
        return super().boot_ms()

    def _look(self) -> None:
        if self.left > 0:
            self.left -= 1
            if not self.left:
                self.other()


def at_each_seam(path: Path, prepare: Verb, verb: Verb, other: Verb, check: Verb) -> None:
    """Let a second broker do `other` at each moment at which `verb` of the first reads a clock."""
    for reading in range(1, MOST_READINGS):
        clock = Interrupted()
        queue = path.with_name(f"{reading}.db")
        one, two = opened(queue, clock), opened(queue, clock)
        two._db.hurry(0.02)  # who is inside a transaction is not waited for
        prepare(one)

        def interrupt(two: SqliteBroker = two) -> None:
            try:
                other(two)
            except BrokerBusy:
                return

        clock.other, clock.left = interrupt, reading
        verb(one)
        over, clock.left = clock.left > 0, 0
        check(two)
        one.close()
        two.close()
        if over:
            assert reading > 2, "or nothing was interrupted"
            return
    raise AssertionError(f"a verb reads its clock {MOST_READINGS} times")


@finds("sweeps_what_it_read_before", "acknowledged, and granted again")
def test_b19_a_job_that_ends_while_the_expired_are_collected_does_not_come_back(
    path: Path,
) -> None:
    """rq 2289, river 1302: a clean-up marked as abandoned what was done after it had looked."""
    acked: list[bool] = []
    granted: list[bytes] = []
    held: list[Any] = []

    def prepare(broker: SqliteBroker) -> None:
        acked.clear()
        granted.clear()
        publish(broker, *messages(1))
        held[:] = claim(broker)
        clock: Any = broker._clock
        clock.advance(VISIBILITY_MS)

    def collect(broker: SqliteBroker) -> None:
        granted.extend(ids(claim(broker)))

    def end(broker: SqliteBroker) -> None:
        acked.append(isinstance(settle(broker, held[0], Ack()), Applied))

    def check(broker: SqliteBroker) -> None:
        clock: Any = broker._clock
        clock.advance(DAY_MS)
        found = granted + ids(claim_all(broker))
        assert not (any(acked) and found), "acknowledged, and granted again"
        assert any(acked) or found, "it is nowhere"

    at_each_seam(path, prepare, collect, end, check)


@finds("claims_what_it_read_before", "granted to two")
def test_b36_two_that_claim_at_any_moment_of_each_other_never_get_the_same(path: Path) -> None:
    """saq 277: a clean-up took a job between its being dequeued and its being marked active."""
    granted: list[bytes] = []

    def prepare(broker: SqliteBroker) -> None:
        granted.clear()
        three_ready(broker)

    def take(broker: SqliteBroker) -> None:
        granted.extend(ids(claim(broker, limit=2)))

    def check(broker: SqliteBroker) -> None:
        granted.extend(ids(claim_all(broker)))
        assert len(granted) == len(set(granted)), "granted to two"
        assert len(granted) == 3

    at_each_seam(path, prepare, take, take, check)
