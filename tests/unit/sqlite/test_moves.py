"""What the shared suite cannot see: sizes past a page, counters of the file, the plans."""

import re
from pathlib import Path

import pytest

from dibs.brokers.contract import Applied, Duplicate, Stale, Stored
from dibs.brokers.sqlite import SqliteBroker
from dibs.brokers.sqlite.broker import BATCH
from dibs.brokers.sqlite.inspector import STEP
from dibs.message import Ack, DeadLetter, Nack, Release, Settlement
from dibs.testing import ManualClock
from dibs.testing.making import (
    ERROR,
    VISIBILITY_MS,
    claim,
    claim_all,
    claim_one,
    ids,
    message,
    messages,
    publish,
    settle,
)
from tests.unit.sqlite.conftest import Open


def test_a_receipt_is_never_used_again(broker: SqliteBroker) -> None:
    again = message()
    receipts = []
    for _ in range(3):
        publish(broker, again)
        lease = claim_one(broker)
        settle(broker, lease, Ack())
        receipts.append(lease.receipt)
    assert sorted(set(receipts)) == receipts


def test_a_queue_that_was_noted_in_a_batch_that_is_undone_is_noted_again(
    broker: SqliteBroker,
) -> None:
    """A number without a row is the next queue's, and so would its messages be."""
    one, other = message("undeclared"), message("undeclared", task="another")
    answers = broker.publish([one, other, one])
    assert answers == [Stored(), Stored(), Duplicate(one.id)]
    its_own = publish(broker, message("other"))
    assert ids(claim(broker, "other", limit=9)) == ids(its_own)
    assert ids(claim(broker, "undeclared", limit=9)) == ids([one, other])


def test_a_batch_of_acks_with_one_stale_among_them(broker: SqliteBroker) -> None:
    publish(broker, *messages(200))
    leases = claim(broker, limit=200)
    settle(broker, leases[77], Release())
    assert claim_one(broker).receipt == leases[77].receipt
    answers = broker.settle([Settlement(lease, Ack()) for lease in leases])
    assert [at for at, answer in enumerate(answers) if answer != Applied()] == [77]
    assert answers[77] == Stale()


def test_acks_of_different_fences_in_one_batch(broker: SqliteBroker) -> None:
    publish(broker, *messages(30))
    for lease in claim(broker, limit=10):
        settle(broker, lease, Nack(0, ERROR))
    leases = claim(broker, limit=30)
    assert {lease.fence for lease in leases} == {1, 2}
    answers = broker.settle([Settlement(lease, Ack()) for lease in leases])
    assert answers == [Applied()] * 30
    assert claim_all(broker) == []


def test_what_runs_out_comes_back_however_much(broker: SqliteBroker, clock: ManualClock) -> None:
    count = 2 * BATCH + 10
    published = publish(broker, *messages(count))
    for _ in range(3):
        claim(broker, limit=BATCH)
    clock.advance(VISIBILITY_MS)
    back = [lease for _ in range(3) for lease in claim(broker, limit=BATCH)]
    assert ids(back) == ids(published)
    assert {lease.lost for lease in back} == {1}


def test_what_falls_due_comes_however_much(broker: SqliteBroker, clock: ManualClock) -> None:
    count = BATCH + 10
    publish(broker, *messages(count, due_ms=clock.wall_ms() + 1_000))
    clock.advance(1_000)
    found = broker.claim(["photos"], BATCH)
    assert found.next_in == 0
    assert len(found.leases) + len(claim(broker, limit=BATCH)) == count


def test_rule_22_a_purge_removes_however_much(broker: SqliteBroker, clock: ManualClock) -> None:
    """Step by step, in each of the places where a message may wait."""
    publish(broker, *messages(STEP + 10))
    publish(broker, *messages(STEP + 10, due_ms=clock.wall_ms() + 60_000))
    publish(broker, *messages(5, "another"))
    claim(broker, limit=STEP // 2)
    clock.advance(VISIBILITY_MS)
    assert broker.inspector().purge("photos") == 2 * STEP + 20
    assert broker._db.connection.execute("SELECT count(*) FROM message").fetchall() == [(5,)]
    assert len(claim_all(broker, "photos", "another")) == 5


def test_another_broker_sees_what_ran_out_within_a_second(
    open_broker: Open, clock: ManualClock
) -> None:
    """The bound that spares the scans is each broker's own; new leases are never under it."""
    one, other = open_broker(), open_broker()
    assert claim(other) == []
    publish(one, message(visibility_timeout_ms=1_000))
    claim_one(one)
    assert claim(other) == []
    clock.advance(1_000)
    assert claim_one(other).lost == 1


def test_the_log_stays_bounded_under_load_and_is_emptied(broker: SqliteBroker, path: Path) -> None:
    log = path.with_name("photos.db-wal")
    sizes = []
    for _ in range(10):
        publish(broker, *messages(2_000))
        leases = claim(broker, limit=2_000)
        broker.settle([Settlement(lease, Ack()) for lease in leases])
        sizes.append(log.stat().st_size)
    assert max(sizes) < 16 << 20


def test_idle_gives_space_back_and_prunes_results(
    broker: SqliteBroker, path: Path, clock: ManualClock
) -> None:
    publish(broker, *messages(100, args=bytes(50_000)))
    full = path.stat().st_size + path.with_name("photos.db-wal").stat().st_size
    for lease in claim(broker, limit=100):
        settle(broker, lease, Ack(b"1", 1_000))
    clock.advance(1_000)
    for _ in range(40):
        broker.idle()
    assert path.stat().st_size < full / 10
    assert broker._db.connection.execute("SELECT count(*) FROM result").fetchall() == [(0,)]


@pytest.mark.parametrize(
    "statement",
    ["look", "grant", "lease", "expired", "sweep", "end_leases", "forget", "forget_attempts",
     "end_lease", "revive", "end_otherwise", "keep_results", "results", "make_ready", "holder",
     "promote", "count_lost", "ready_jobs", "scheduled_jobs", "leased_jobs", "dead_jobs", "job",
     "dead_letter", "redrive", "discard", "purge"],
)  # fmt: skip
def test_no_statement_but_the_counts_reads_every_message(
    broker: SqliteBroker, statement: str
) -> None:
    # No constant: the planner would know that a comparison with it is false.
    for text in re.sub(r"\?\d*|:\w+", "abs(1)", broker._db.sql[statement]).split(";"):
        plan = broker._db.connection.execute("EXPLAIN QUERY PLAN " + text).fetchall()
        assert plan
        assert not [step for *_, step in plan if step.startswith(("SCAN message", "SCAN m "))]


@pytest.mark.parametrize("together", [True, False])
def test_the_history_of_a_message_goes_with_it(broker: SqliteBroker, together: bool) -> None:
    publish(broker, *messages(3))
    for lease in claim(broker, limit=3):
        settle(broker, lease, Nack(0, ERROR, "crash"))
    assert broker._db.connection.execute("SELECT count(*) FROM attempt").fetchall() == [(3,)]
    leases = claim(broker, limit=3)
    if together:
        broker.settle([Settlement(lease, Ack()) for lease in leases])
    else:
        for lease in leases:
            broker.settle([Settlement(lease, Ack()), Settlement(lease, Ack())])
    assert broker._db.connection.execute("SELECT count(*) FROM attempt").fetchall() == [(0,)]


def test_results_whose_time_is_over_go_while_there_is_always_work(
    broker: SqliteBroker, clock: ManualClock
) -> None:
    for _ in range(10):
        publish(broker, message())
        assert settle(broker, claim_one(broker), Ack(b"1", 1_000)) == Applied()
        clock.advance(2_000)
    ((kept,),) = broker._db.connection.execute("SELECT count(*) FROM result").fetchall()
    assert kept == 1


@pytest.mark.parametrize("way", ["discard", "purge", "ack after redrive"])
def test_the_history_goes_with_what_people_clear_away(broker: SqliteBroker, way: str) -> None:
    whole = publish(broker, message())[0]
    settle(broker, claim_one(broker), Nack(0, ERROR, "nothing"))
    inspector = broker.inspector()
    if way == "purge":
        assert inspector.purge("photos") == 1
    else:
        settle(broker, claim_one(broker), DeadLetter("rejected", ERROR))
    if way == "discard":
        assert inspector.discard([whole.id]) == 1
    elif way == "ack after redrive":
        inspector.redrive([whole.id])
        settle(broker, claim_one(broker), Ack())
    assert broker._db.connection.execute("SELECT count(*) FROM attempt").fetchall() == [(0,)]
