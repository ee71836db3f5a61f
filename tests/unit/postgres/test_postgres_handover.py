"""A message may be leased to one who waits for it by the transaction that stores it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import msgspec
import psycopg
import pytest

from dibs.brokers.contract import APPLIED, Broker, Claim, Duplicate, Gone
from dibs.brokers.postgres import PostgresBroker, open_url
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.message import Ack, Lease, Message
from dibs.testing import ManualClock
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import (
    VISIBILITY_MS,
    claim,
    claim_one,
    ids,
    message,
    messages,
    publish,
    settle,
)
from dibs.wires.libpq.leases import LONGEST_NOTE
from dibs.wires.libpq.session import Unanswered
from tests.servers.postgres import stop_the_clock
from tests.unit.postgres.conftest import Open
from tests.worker.workers import until

Sql = psycopg.Connection


def waiting(broker: Broker, *queues: str) -> PostgresBroker:
    """Have a broker wait that has found nothing."""
    assert isinstance(broker, PostgresBroker)
    broker.bell()
    assert claim(broker, *(queues or ("photos",)), limit=10) == []
    return broker


def count(sql: Sql, table: str) -> int:
    row = sql.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def heard(broker: Broker) -> Broker:
    """Wait until what was told to a broker has come."""
    assert rung(broker) == [broker]
    return broker


def cut_after_the_commit(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a publisher die between its commit and what it tells then."""
    assert isinstance(broker, PostgresBroker)
    run = broker._session.run
    monkeypatch.setattr(broker._session, "run", lambda calls, **_: run(calls))


def wait_at_the_commit(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a publisher wait there for whoever holds the lock 7."""
    assert isinstance(broker, PostgresBroker)
    run = broker._session.run
    wait = ("", "SELECT pg_advisory_xact_lock_shared(7)")

    def slow(calls: Any, after: Any = None) -> Any:
        return run([*calls, wait], after=after)[: len(calls)]

    monkeypatch.setattr(broker._session, "run", slow)


def test_what_is_published_for_one_who_waits_is_leased_by_the_same_commit(
    opened: Open, sql: Sql, timed: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else can claim it, and its waiter, for whom no time passes, asks for nothing."""
    publisher, waiter = opened(), timed
    new = message(args=b'{"path":"\xc3\xa4\\u0000.jpg"}', headers={"trace": "1"}, unique_key="a")
    publish(publisher, new)
    assert (count(sql, "ready"), count(sql, "lease")) == (0, 1)
    assert claim(opened(), limit=2) == []
    with monkeypatch.context() as patch:
        patch.delattr(type(waiter._session), "run")
        (lease,) = claim(heard(waiter), limit=2)
    assert lease.message == new
    assert (lease.fence, lease.attempt) == (1, 1)
    row = sql.execute("SELECT seq, fence, expiry_ms FROM lease").fetchone()
    assert row == (lease.receipt, 1, lease.expiry_ms)
    assert settle(opened(), lease, Ack()) == APPLIED
    assert settle(waiter, lease, Ack()) == Gone()


def test_it_is_the_same_lease_as_one_that_was_claimed(opened: Open, sql: Sql) -> None:
    new = message(task="\0ä", priority=3, visibility_timeout_ms=7_000, timeout_ms=9_000, max_lost=2)
    handed = claim_one(heard(publish_for(opened, new)))
    rows = [sql.execute("SELECT queue, rank, fence FROM lease").fetchone()]
    settle(opened(), handed, Ack())
    other = opened()
    publish(other, new)
    granted = claim_one(other)
    rows.append(sql.execute("SELECT queue, rank, fence FROM lease").fetchone())
    assert rows[0] == rows[1]
    assert handed == Lease(granted.message, 1, 0, 0, 0, handed.expiry_ms, handed.receipt)
    assert type(handed.receipt) is type(granted.receipt)


def publish_for(opened: Open, *new: Message) -> PostgresBroker:
    """Publish messages for one who waits, and return it."""
    waiter = waiting(opened())
    publish(opened(), *new)
    return waiter


def test_a_claim_finds_what_it_was_handed_before_the_note_has_come(opened: Open) -> None:
    """The note takes another way than the answers."""
    waiter = waiting(opened())
    for _ in range(50):
        (whole,) = publish(waiter, message())
        lease = claim_one(waiter)
        assert (lease.message.id, lease.fence) == (whole.id, 1)
        settle(waiter, lease, Ack())
        assert claim(waiter, limit=2) == []


def test_each_message_goes_to_another_waiter(opened: Open, sql: Sql) -> None:
    publisher = opened()
    waiters = [waiting(opened()) for _ in range(3)]
    for _ in range(3):
        publish(publisher, message())
    assert count(sql, "lease") == 3
    assert [len(claim(heard(one), limit=2)) for one in waiters] == [1, 1, 1]


def test_a_waiter_that_has_something_is_rung_and_nothing_is_handed_to_it(
    opened: Open, sql: Sql
) -> None:
    """It may be busy with what it has, and what was handed over would wait for it."""
    publisher, waiter = opened(), waiting(opened(), "photos", "videos")
    publish(publisher, message("videos"))
    assert len(claim(heard(waiter), "photos", "videos", limit=2)) == 1
    publish(publisher, message())
    publish(publisher, message("videos"))
    assert count(sql, "ready") == 2
    assert len(claim(heard(waiter), "photos", "videos", limit=3)) == 2
    publish(publisher, message())
    assert count(sql, "ready") == 1


@pytest.mark.parametrize(
    "new",
    [[message(args=b'"%s"' % (b"x" * LONGEST_NOTE))], messages(2)],
    ids=["long", "two"],
)
def test_what_is_no_single_short_message_is_stored_as_ever(
    opened: Open, sql: Sql, new: list[Message]
) -> None:
    waiter = publish_for(opened, *new)
    assert count(sql, "lease") == 0
    assert ids(claim(heard(waiter), limit=5)) == ids(new)


def test_the_longest_note_can_be_told(opened: Open) -> None:
    """A notification has less than 8,000 bytes."""
    new = message(args=b'"%s"' % (b"x" * (LONGEST_NOTE * 3 // 4 - 200)))
    (lease,) = claim(heard(publish_for(opened, new)), limit=2)
    assert (lease.message, lease.fence) == (new, 1)


def test_what_is_handed_over_overtakes_nothing_that_falls_due(
    opened: Open, sql: Sql, time: ManualClock
) -> None:
    publisher = opened()
    first = publish(publisher, message(due_ms=time.wall_ms() + 10))
    waiter = waiting(opened())
    let_pass(sql, time, 10)
    last = publish(publisher, message())
    assert count(sql, "lease") == 0
    assert ids(claim(heard(waiter), limit=5)) == ids([*first, *last])


def test_what_is_handed_over_overtakes_nothing_that_is_ready(opened: Open, sql: Sql) -> None:
    """Another was rung for it, and has not come yet."""
    publisher, rung_first = opened(), waiting(opened())
    first = publish(publisher, *messages(2))
    sql.execute("INSERT INTO idle SELECT channel, ARRAY['photos'] FROM idle ON CONFLICT DO NOTHING")
    last = publish(publisher, message())
    assert count(sql, "lease") == 0
    assert ids(claim(heard(rung_first), limit=5)) == ids([*first, *last])


def test_of_a_queue_that_is_paused_nothing_is_handed_over(opened: Open, sql: Sql) -> None:
    publisher, waiter = opened(), waiting(opened())
    publisher.inspector().pause("photos")
    publish(publisher, message())
    assert count(sql, "lease") == 0
    assert claim(heard(waiter), limit=5) == []
    publisher.inspector().resume("photos")
    assert len(claim(heard(waiter), limit=5)) == 1


def test_a_duplicate_is_not_handed_over(opened: Open, sql: Sql) -> None:
    publisher = opened()
    (whole,) = publish(publisher, message(unique_key="a"))
    assert claim_one(publisher).message == whole
    waiter = waiting(opened())
    assert publisher.publish([message(unique_key="a")]) == [Duplicate(whole.id)]
    assert count(sql, "lease") == 1
    assert claim(waiter, limit=2) == []


def test_a_waiter_that_died_is_handed_nothing(opened: Open, sql: Sql) -> None:
    dead, alive = waiting(opened()), waiting(opened())
    assert dead._bell._session is not None
    dead._bell._session.close()
    until(lambda: count(sql, "pg_locks WHERE locktype = 'advisory'") == 1, "the server knows")
    publish(opened(), message())
    publish(opened(), message())
    assert count(sql, "lease") == 1
    assert len(claim(heard(alive), limit=5)) == 1
    assert len(claim(alive, limit=5)) == 1


def test_what_a_dead_publisher_did_not_tell_is_asked_for_at_once_when_no_note_comes(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died between its commit and the note; the waiter looks once a second."""
    publisher, waiter = opened(), waiting(opened())
    cut_after_the_commit(publisher, monkeypatch)
    publish(publisher, message())
    assert rung(waiter, within=0) == []
    assert waiter.claim(["photos"], 2) == Claim([], 0)
    (lease,) = claim(waiter, limit=2)
    assert (lease.fence, lease.lost) == (2, 0)
    assert claim(waiter, limit=2) == []
    assert settle(waiter, lease, Ack()) == APPLIED


def test_what_a_waiter_died_before_it_was_told_of_goes_back_when_it_is_forgotten(
    opened: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its publisher died too: nobody knows of that lease."""
    publisher, waiter = opened(), waiting(opened())
    cut_after_the_commit(publisher, monkeypatch)
    publish(publisher, message())
    assert waiter._bell._session is not None
    waiter._bell._session.close()
    until(lambda: count(sql, "pg_locks WHERE locktype = 'advisory'") == 0, "the server knows")
    sql.execute("UPDATE upkeep SET next_ms = 0")
    lease = claim_one(opened())
    assert (lease.fence, lease.lost) == (2, 0)
    assert count(sql, "idle") == 0


@pytest.mark.parametrize("told", [True, False])
def test_closing_gives_back_what_was_handed_over(
    opened: Open, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, waiter = opened(), waiting(opened())
    if not told:
        cut_after_the_commit(publisher, monkeypatch)
    publish(publisher, message())
    waiter.close()
    lease = claim_one(opened())
    assert (lease.fence, lease.lost) == (2, 0)


def test_closing_gives_back_what_was_handed_over_after_a_lost_answer(
    opened: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wish stands at the server, and its waiter does not know."""
    publisher, waiter = opened(), opened()
    assert isinstance(waiter, PostgresBroker)
    waiter.bell()
    run = waiter._session.run

    def lost(*asked: Any, **more: Any) -> Any:
        run(*asked, **more)
        raise Unanswered("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(waiter._session, "run", lost)
        with pytest.raises(BrokerUnavailable):
            claim(waiter, limit=2)
    publish(publisher, message())
    assert count(sql, "lease") == 1
    waiter.close()
    lease = claim_one(publisher)
    assert (lease.fence, lease.lost) == (2, 0)


@pytest.mark.parametrize("told", [True, False])
def test_a_claim_of_nothing_gives_back_what_was_handed_over_and_wakes_another(
    opened: Open, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, waiter = opened(), waiting(opened())
    if not told:
        cut_after_the_commit(publisher, monkeypatch)
    publish(publisher, message())
    idle = waiting(opened())
    assert claim(waiter, limit=0) == []
    lease = claim_one(heard(idle))
    assert (lease.fence, lease.lost) == (2, 0)


def test_a_full_claim_gives_back_what_is_being_handed_over(
    opened: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its publisher is at its commit, so there is nothing to be seen yet but a lock."""
    publisher, waiter = opened(), waiting(opened(), "photos", "videos")
    wait_at_the_commit(publisher, monkeypatch)
    sql.execute("SELECT pg_advisory_lock(7)")
    with ThreadPoolExecutor(2) as aside:
        published = aside.submit(publish, publisher, message("videos"))
        until(lambda: count(sql, "pg_locks WHERE NOT granted") == 1, "it is at its commit")
        (photo,) = publish(opened(), message())
        filled = aside.submit(claim, waiter, "photos", "videos", limit=1)
        until(lambda: count(sql, "pg_locks WHERE NOT granted") == 2, "the claim waits for it")
        sql.execute("SELECT pg_advisory_unlock(7)")
        published.result(10)
        assert ids(filled.result(10)) == [photo.id]
    lease = claim_one(opened(), "videos")
    assert (lease.fence, lease.lost) == (2, 0)


def test_a_claim_that_met_its_publisher_at_the_commit_is_followed_by_none_that_waits_in_vain(
    opened: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found what it was handed, not told yet, and so was not idle anew."""
    publisher, waiter = opened(), waiting(opened())
    wait_at_the_commit(publisher, monkeypatch)
    assert isinstance(publisher, PostgresBroker)
    run, met = publisher._session.run, Event()

    def telling_then(calls: Any, after: Any = None) -> Any:
        found = run(calls)
        assert met.wait(10)
        run([after])
        return found

    sql.execute("SELECT pg_advisory_lock(7)")
    with ThreadPoolExecutor(2) as aside:
        monkeypatch.setattr(publisher._session, "run", telling_then)
        published = aside.submit(publish, publisher, message())
        until(lambda: count(sql, "pg_locks WHERE NOT granted") == 1, "it is at its commit")
        claimed = aside.submit(claim, waiter, limit=5)
        until(lambda: count(sql, "pg_locks WHERE NOT granted") == 2, "the claim waits for it")
        sql.execute("SELECT pg_advisory_unlock(7)")
        until(lambda: count(sql, "pg_locks WHERE NOT granted") == 0, "the claim has met it")
        met.set()
        published.result(10)
        assert len(claimed.result(10)) == 1
    assert not waiter._bell.is_idle
    assert claim(waiter, limit=5) == []
    assert waiter._bell.is_idle


def test_what_is_handed_over_for_another_queue_goes_back(opened: Open) -> None:
    waiter, publisher = waiting(opened(), "photos", "videos"), opened()
    publish(publisher, message())
    heard(waiter)
    assert claim(waiter, "videos", limit=5) == []
    lease = claim_one(publisher)
    assert (lease.fence, lease.lost) == (2, 0)


def test_whoever_was_handed_all_that_it_has_room_for_is_not_rung(opened: Open, sql: Sql) -> None:
    waiter, publisher = waiting(opened()), opened()
    publish(publisher, message())
    assert len(claim(heard(waiter), limit=1)) == 1
    publish(publisher, message())
    assert count(sql, "waiter WHERE armed") == 0
    assert rung(waiter, within=0) == []


@pytest.fixture
def time(url: str, sql: Sql) -> ManualClock:
    """The clock of a waiter, and of the server."""
    clock = ManualClock()
    open_url(url, clock=clock, worker_id=os.urandom(16)).close()
    stop_the_clock(sql, url.partition("&schema=")[2], clock.wall_ms())
    return clock


@pytest.fixture
def timed(time: ManualClock, url: str) -> Iterator[PostgresBroker]:
    """One who waits, and counts its time on that clock."""
    waiter = waiting(open_url(url, clock=time, worker_id=os.urandom(16)))
    yield waiter
    waiter.close()


def let_pass(sql: Sql, time: ManualClock, ms: int) -> None:
    sql.execute("UPDATE test_time SET ms = ms + %s", (ms,))
    time.advance(ms)


def test_what_has_lain_is_renewed_before_its_holder_counts_from_now(
    opened: Open, sql: Sql, time: ManualClock, timed: PostgresBroker
) -> None:
    publisher = opened()
    publish(publisher, message())
    let_pass(sql, time, VISIBILITY_MS // 2)
    (lease,) = claim(heard(timed), limit=2)
    let_pass(sql, time, VISIBILITY_MS - 1)
    assert claim(publisher) == []
    assert settle(timed, lease, Ack()) == APPLIED


def test_what_has_lain_is_kept_until_its_renewal_is_answered(
    opened: Open, sql: Sql, time: ManualClock, timed: PostgresBroker
) -> None:
    """The connection was lost meanwhile, which costs the job neither time nor a loss."""
    (new,) = publish(opened(), message())
    let_pass(sql, time, VISIBILITY_MS // 2)
    heard(timed)
    with ThreadPoolExecutor(1) as aside, sql.transaction():
        sql.execute("LOCK TABLE lease")  # a row that is locked is not waited for
        waits = "pg_stat_activity WHERE wait_event_type = 'Lock'"
        claiming = aside.submit(claim, timed, limit=2)
        until(lambda: count(sql, waits) == 1, "the renewal waits")
        sql.execute(f"SELECT pg_terminate_backend(pid) FROM {waits}".encode())
        with pytest.raises(BrokerUnavailable):
            claiming.result(10)
    (lease,) = claim(timed, limit=2)
    assert (lease.message, lease.fence, lease.lost) == (new, 1, 0)
    let_pass(sql, time, VISIBILITY_MS - 1)
    assert settle(timed, lease, Ack()) == APPLIED


def test_what_has_lain_and_is_not_wanted_is_given_back_without_a_renewal(
    opened: Open, sql: Sql, time: ManualClock, timed: PostgresBroker, monkeypatch: Any
) -> None:
    """One that is stopping asks for nothing that could keep it from that."""
    (new,) = publish(opened(), message())
    let_pass(sql, time, VISIBILITY_MS // 2)
    with monkeypatch.context() as patch:
        patch.delattr(type(timed), "extend")
        assert claim(heard(timed), limit=0) == []
    lease = claim_one(opened())
    assert (lease.message, lease.fence, lease.lost) == (new, 2, 0)


def test_who_publishes_the_same_id_meanwhile_tells_nothing_of_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that the id is taken; what it meant by it is another message."""
    publisher, waiter, told = opened(), waiting(opened()), []
    assert isinstance(publisher, PostgresBroker)
    run = publisher._session.run

    def slow(calls: Any, after: Any = None) -> Any:
        told.append(after)
        return run(calls)

    monkeypatch.setattr(publisher._session, "run", slow)
    (new,) = publish(publisher, message())
    other = msgspec.structs.replace(new, args=b'{"path":"b.jpg"}')
    assert opened().publish([other]) == [Duplicate(new.id)]
    run(told)
    (lease,) = claim(heard(waiter), limit=2)
    assert (lease.message, lease.fence) == (new, 1)


def test_a_commit_that_took_long_is_time_that_is_over(
    opened: Open, sql: Sql, time: ManualClock, timed: PostgresBroker, monkeypatch: Any
) -> None:
    """The lease runs from before it, by the server's clock."""
    publisher = opened()
    assert isinstance(publisher, PostgresBroker)
    run = publisher._session.run

    def slow(calls: Any, after: Any = None) -> Any:
        found = run(calls)
        let_pass(sql, time, VISIBILITY_MS // 2)
        run([after])
        return found

    monkeypatch.setattr(publisher._session, "run", slow)
    publish(publisher, message())
    (lease,) = claim(heard(timed), limit=2)
    let_pass(sql, time, VISIBILITY_MS - 1)
    assert settle(timed, lease, Ack()) == APPLIED


def test_what_has_lain_until_another_holds_it_is_not_taken(
    opened: Open, sql: Sql, time: ManualClock, timed: PostgresBroker
) -> None:
    """A worker that was stopped: its lease ran out, as that of any that stops."""
    publisher = opened()
    publish(publisher, message())
    let_pass(sql, time, VISIBILITY_MS)
    other = claim_one(publisher)
    assert other.lost == 1
    assert claim(heard(timed), limit=2) == []
    assert settle(publisher, other, Ack()) == APPLIED


def behind_a_pooler(opened: Open) -> Broker:
    return opened("&listen=no")


def with_room(opened: Open) -> Broker:
    return waiting(opened("&listen=no"))


@pytest.mark.parametrize("who", [behind_a_pooler, with_room])
def test_behind_a_pooler_nothing_is_handed_over(
    opened: Open, sql: Sql, who: Callable[[Open], Broker]
) -> None:
    """What follows a commit may come late there, and a waiter cannot be told."""
    if who is behind_a_pooler:
        waiter = waiting(opened())
        publish(who(opened), message())
        heard(waiter)
    else:
        waiter = who(opened)
        publish(opened(), message())
    assert count(sql, "lease") == 0
    assert len(claim(waiter, limit=2)) == 1


def test_a_transaction_of_a_callers_own_hands_nothing_over_and_holds_up_no_waiter(
    opened: Open, sql: Sql, url: str
) -> None:
    waiter = waiting(opened())
    plain, _, schema = url.partition("&schema=")
    with psycopg.connect(plain) as own:
        values = [waiter._store.hex(), message().id.hex(), "photos", "resize", "7b7d", 0, 0, 30_000]
        values += [1_000, 1, 1, 1, None, None, 1]
        places = ", ".join(["%s"] * len(values))
        answer = own.execute(f"SELECT {schema}.publish_here({places})", values).fetchone()
        assert answer == ("stored",)
        assert claim(waiter, limit=0) == []
        assert claim(waiter, limit=2) == []
    assert count(sql, "ready") == 1
    assert count(sql, "lease") == 0
    assert len(claim(heard(waiter), limit=2)) == 1


def test_what_no_publisher_said_is_not_taken_for_a_lease(opened: Open, sql: Sql) -> None:
    """Whoever can connect can notify a channel."""
    waiter = waiting(opened())
    sql.execute("SELECT pg_notify(channel, said) FROM idle, unnest(ARRAY['x', '1 2 {}', '']) said")
    assert claim(heard(waiter), limit=5) == []
    publish(opened(), message())
    assert len(claim(heard(waiter), limit=5)) == 1


def test_two_brokers_of_one_worker_share_no_channel(url: str) -> None:
    """Both would take what is handed over to it."""
    both = [open_url(url, clock=SystemClock(), worker_id=b"w" * 16) for _ in range(2)]
    for one in both:
        waiting(one)
    publish(both[0], message())
    assert [len(claim(one, limit=5)) for one in both] in ([0, 1], [1, 0])
    for one in both:
        one.close()


def test_a_note_on_its_way_is_of_the_wish_before_and_none_is_made_anew(
    opened: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the waiter would not know that it may be handed more, and would not give that back."""
    publisher, waiter = opened(), waiting(opened())
    publish(publisher, message())
    with monkeypatch.context() as patch:
        patch.setattr(waiter._bell, "channel", lambda: waiter._bell._channel)
        patch.setattr(waiter._bell._selector, "select", lambda _: [])
        patch.setattr(waiter._bell._session, "answers", lambda: True)
        assert waiter.claim(["photos"], 5) == Claim([], 0)
    assert count(sql, "idle WHERE queues IS NOT NULL") == 0
    assert len(claim(heard(waiter), limit=5)) == 1
    assert claim(waiter, limit=5) == []
    assert waiter._bell.is_idle


def test_nobody_who_died_stays_in_the_list_of_the_idle(opened: Open, sql: Sql) -> None:
    """It was forgotten already, while its last claim was on its way."""
    dead = waiting(opened())
    assert dead._bell._session is not None
    dead._bell._session.close()
    until(lambda: count(sql, "pg_locks WHERE locktype = 'advisory'") == 0, "the server knows")
    sql.execute("DELETE FROM waiter")
    publish(opened(), message())
    assert count(sql, "idle") == 0
