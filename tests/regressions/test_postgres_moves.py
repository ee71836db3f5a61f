"""On PostgreSQL: what happens in the middle of another transaction, and to lost connections.

Each race is held open by a transaction of the test's own, which calls the functions of a worker.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

import psycopg
import pytest

from dibs.alike import Alike
from dibs.brokers.contract import Applied, Broker, Gone, Held, Stale, Unknown
from dibs.brokers.postgres import open_url
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.message import Ack, Lease, Message, Settlement
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import claim, claim_all, claim_one, ids, message, messages, publish, settle
from tests.regressions.seeding import finds
from tests.residue import leaves_nothing
from tests.servers.missing import not_installed
from tests.servers.postgres import Server, programs, serving

_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this file's own."""
    binaries = programs()
    if binaries is None:
        not_installed("PostgreSQL", "postgresql")
    with serving(binaries) as running:
        yield running


class Place:
    """Queues on the server, opened as often as a test likes, and a connection to their tables."""

    def __init__(self, server: Server) -> None:
        self._schema = f"place_{next(_numbers)}"
        self._plain = server.url("postgres")
        self._brokers: list[Broker] = []

    def open(self) -> Broker:
        url = f"{self._plain}&schema={self._schema}"
        self._brokers.append(open_url(url, clock=SystemClock(), worker_id=os.urandom(16)))
        return self._brokers[-1]

    @contextmanager
    def sql(self) -> Iterator[psycopg.Connection]:
        """A connection, whose transaction the test ends."""
        with psycopg.connect(self._plain) as connection:
            connection.execute(f"SET search_path = {self._schema}")
            connection.commit()
            yield connection

    def run_out(self) -> None:
        """Let every lease run out, and let the next claim look for them."""
        with self.sql() as sql:
            sql.execute("UPDATE lease SET expiry_ms = now_ms() - 1")
            sql.execute("UPDATE upkeep SET next_ms = 0")

    def wait_for_one_that_waits(self) -> None:
        """Wait until somebody waits for what another transaction holds."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        deadline = time.monotonic() + 10
        with self.sql() as sql:
            while sql.execute(waiting).fetchone() == (0,) and time.monotonic() < deadline:
                sql.commit()

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()


@pytest.fixture
def place(server: Server) -> Iterator[Place]:
    """Queues of this test's own."""
    place = Place(server)
    yield place
    place.close()


def acknowledging(sql: psycopg.Connection, lease: Lease) -> None:
    """Acknowledge, in a transaction that stays open."""
    sql.execute(
        "SELECT acknowledge(ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY[%s], NULL, NULL, NULL, NULL)",
        (lease.message.id.hex(), lease.receipt, lease.fence),
    )


def test_b19_b40_what_is_being_acknowledged_is_swept_by_nobody(place: Place) -> None:
    """rq 2289, river 1302: a rescuer overwrote what had ended after it had looked."""
    broker = place.open()
    publish(broker, message())
    lease = claim_one(broker)
    with place.sql() as sql:
        acknowledging(sql, lease)
        sql.execute("SAVEPOINT here")
        with place.sql() as other:
            other.execute("UPDATE upkeep SET next_ms = 0")
        assert claim_all(broker) == []
        sql.commit()
    place.run_out()
    assert claim_all(broker) == []
    assert settle(broker, lease, Ack()) == Gone()


def test_b19_what_is_being_swept_can_still_be_acknowledged(place: Place) -> None:
    """It waits for the sweep, and is then late, not lost."""
    broker, answers = place.open(), []
    publish(broker, message())
    lease = claim_one(broker)
    place.run_out()
    with place.sql() as sql:
        sql.execute("SELECT tidy(now_ms())")
        thread = threading.Thread(target=lambda: answers.append(settle(broker, lease, Ack())))
        thread.start()
        place.wait_for_one_that_waits()
        sql.commit()
        thread.join(10)
    assert answers == [Applied(late=True)]
    assert claim_all(broker) == []


def test_what_is_renewed_twice_at_the_same_moment_stays_held(place: Place) -> None:
    """Both came late: the second does not wait for the first, and knows nothing of them."""
    broker = place.open()
    publish(broker, *messages(2))
    leases = sorted(claim(broker, limit=2), key=lambda lease: lease.message.id)
    place.run_out()
    both = (
        [lease.message.id.hex() for lease in leases],
        [lease.receipt for lease in leases],
        [lease.fence for lease in leases],
    )
    with place.sql() as sql:
        sql.execute("SELECT tidy(now_ms())")
        sql.commit()
        sql.execute("SELECT extend(%s::uuid[], %s::bigint[], %s::integer[], '{30000,30000}')", both)
        assert broker.extend(leases) == [Unknown()] * 2
        sql.commit()
    assert broker.extend(leases) == [Held(30.0)] * 2
    place.run_out()
    assert ids(claim_all(broker)) == ids(leases)


def test_what_another_call_renewed_since_it_was_looked_for_stays_held(place: Place) -> None:
    """It is taken to be renewed, and must be put back."""
    broker = place.open()
    publish(broker, message())
    lease = claim_one(broker)
    which = (lease.message.id.hex(), lease.receipt, lease.fence)
    with place.sql() as sql:
        renewed = sql.execute("SELECT renew(%s, %s, %s, 30000, now_ms(), true)", which).fetchone()
        assert renewed == (30_000,)
        sql.commit()
    assert settle(broker, lease, Ack()) == Applied()


def test_b36_two_that_claim_at_the_same_moment_never_get_the_same(place: Place) -> None:
    """saq 277; and what one of them gives up again is found by the other."""
    broker = place.open()
    published = publish(broker, *messages(9))
    with place.sql() as sql:
        sql.execute("SELECT claim(ARRAY['photos'], ARRAY[-1]::bigint[], 3, NULL, false)")
        assert ids(claim(broker, limit=3)) == ids(published[3:6])
        sql.rollback()
    found = [*claim(broker, limit=3), *claim(broker, limit=10)]
    assert sorted(ids(found)) == sorted(ids([*published[:3], *published[6:]]))


def test_b36_a_publisher_that_commits_late_is_not_passed_over(place: Place) -> None:
    """However much comes after it: its turn is half a second away."""
    broker = place.open()
    publish(broker, message())
    with place.sql() as sql:
        late = message()
        sql.execute(
            "SELECT publish_here((SELECT store::text FROM meta), %s, 'photos', 'resize', '', 0, 0,"
            " 30000, 900000, 5, 3, 10, NULL, NULL, 1)",
            (late.id.hex(),),
        )
        publish(broker, *messages(3))
        assert len(claim(broker, limit=4)) == 4
        sql.commit()
    granted: list[bytes] = []
    deadline = time.monotonic() + 10
    while late.id not in granted and time.monotonic() < deadline:
        publish(broker, message())
        granted += ids(claim(broker))
    assert late.id in granted


@pytest.mark.parametrize("waited_for", ["due time", "expiry"])
def test_b22_b28_b32_a_claim_that_dies_half_way_has_moved_nothing(
    place: Place, waited_for: str
) -> None:
    """rq-scheduler 222, taskiq-redis 131, huey 915: gone between the one place and the other."""
    broker = place.open()
    due_ms = time.time_ns() // 1_000_000 + 300 if waited_for == "due time" else 0
    published = publish(broker, *messages(20, due_ms=due_ms))
    lost = 0
    if waited_for == "expiry":
        lost = 1
        claim_all(broker)
        place.run_out()
    with place.sql() as sql:
        deadline = time.monotonic() + 10
        moved = sql.execute("SELECT 0").fetchone()
        while moved == (0,) and time.monotonic() < deadline:
            sql.execute("SELECT claim(ARRAY['photos'], ARRAY[-1]::bigint[], 7, NULL, false)")
            moved = sql.execute("SELECT count(*) FROM ready").fetchone()
        assert moved == (13,)
        with pytest.raises(psycopg.OperationalError):
            sql.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        sql.close()
    again = claim_all(broker)
    assert ids(again) == ids(published)
    assert {lease.lost for lease in again} == {lost}


def test_b41_twenty_thousand_orphans_of_another_queue_are_in_nobodys_way(place: Place) -> None:
    """river 1318: a page full of what nobody could rescue hid the rest."""
    broker = place.open()
    for _ in range(4):
        new = [message("orphans").id for _ in range(5_000)]
        pattern = Message(new[0], "orphans", "gone", b"")
        broker.publish(Alike(pattern, new, [b""] * 5_000))
    while claim(broker, "orphans", limit=5_000):
        pass
    place.run_out()
    mine = publish(broker, message())
    started = time.monotonic()
    assert ids(claim(broker, limit=10)) == ids(mine)
    assert time.monotonic() - started < 5
    assert sum(len(claim(broker, "orphans", limit=5_000)) for _ in range(8)) == 20_000


@finds("listens_to_one_connection", "assert \\[\\] == ")
def test_b38_a_listener_that_was_cut_listens_again(place: Place) -> None:
    """procrastinate 1425: a lost LISTEN was never made again."""
    broker, waiting = place.open(), place.open()
    waiting.bell()
    for _ in range(3):
        assert claim(waiting, limit=10) == []
        with place.sql() as sql:
            sql.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l, pg_stat_activity a"
                " WHERE l.locktype = 'advisory' AND a.pid = l.pid AND a.application_name = 'dibs'"
            )
        assert rung(waiting) == [waiting]
        assert claim(waiting, limit=10) == []
        publish(broker, message())
        assert rung(waiting) == [waiting]
        assert len(claim(waiting, limit=10)) == 1


def test_b44_b49_a_fence_that_is_over_ends_nothing(place: Place) -> None:
    """bull 308: both finished. The old holder is refused by the server, in a batch as alone."""
    broker = place.open()
    publish(broker, *messages(3))
    old = claim(broker, limit=3)
    place.run_out()
    new = claim(broker, limit=3)
    assert broker.settle([Settlement(lease, Ack()) for lease in old]) == [Stale()] * 3
    assert broker.settle([Settlement(lease, Ack()) for lease in new]) == [Applied()] * 3


def test_b12_losing_the_connection_again_and_again_leaves_nothing_behind(place: Place) -> None:
    """celery 10277: each reconnect leaked."""
    broker = place.open()
    broker.bell()

    def once() -> None:
        works(broker)
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dibs'"
        )
        sql.commit()
        works(broker)

    with place.sql() as sql:
        leaves_nothing(once)


def works(broker: Broker) -> None:
    """Return when it works; it may have been cut off in the middle of a call."""
    while True:
        with suppress(BrokerUnavailable):
            claim(broker)
            return
