"""A message may be leased to one who waits for it by the transaction that stores it."""

import os
import select
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from dibs.brokers.contract import APPLIED, STALE, UNKNOWN, Claim, Duplicate, Gone, Settled
from dibs.brokers.sqlite import SqliteBroker
from dibs.errors import BrokerBusy, BrokerError
from dibs.local.bells import LONGEST_NOTE
from dibs.local.lock import WriteLock
from dibs.message import Ack, Lease, Message, Release, Settlement
from dibs.testing import ManualClock
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
from tests.unit.sqlite.children import child, wait_for_work
from tests.unit.sqlite.conftest import Open, in_line
from tests.unit.sqlite.test_bells import at_the_commit, bells_of, rung, waiting


def count(broker: SqliteBroker, table: str) -> int:
    return int(broker._db.connection.execute(f"SELECT count(*) FROM {table}").get)


def commits_of(broker: SqliteBroker, call: Callable[[], object]) -> int:
    """Count the transactions that wrote something."""
    with at_the_commit(broker, lambda: None) as seen:
        call()
    return len(seen)


def test_what_is_published_for_one_who_waits_is_leased_by_the_same_commit(
    open_broker: Open,
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    new = message(args=b'{"path":"a.jpg"}', headers={"trace": "1"}, unique_key="a")
    assert commits_of(publisher, lambda: publish(publisher, new)) == 1
    assert (count(publisher, "ready"), count(publisher, "lease")) == (0, 1)
    assert claim(open_broker(), limit=2) == []
    leases: list[Lease] = []
    assert commits_of(waiter, lambda: leases.extend(claim(waiter, limit=2))) == 0
    (lease,) = leases
    assert lease.message == new
    assert (lease.fence, lease.attempt) == (1, 1)
    (row,) = publisher._db.connection.execute("SELECT seq, fence, expiry_ms FROM lease").fetchall()
    assert row == (lease.receipt, 1, lease.expiry_ms)
    assert settle(open_broker(), lease, Ack()) == APPLIED
    assert settle(waiter, lease, Ack()) == Gone()


def test_it_is_the_same_lease_as_one_that_was_claimed(open_broker: Open) -> None:
    new = message(priority=3, visibility_timeout_ms=7_000, timeout_ms=9_000, max_lost=2)
    waiter = waiting(open_broker(), "photos")
    publish(open_broker(), new)
    handed = claim_one(waiter)
    settle(waiter, handed, Ack())
    other = open_broker()
    publish(other, new)
    granted = claim_one(other)
    assert type(handed.receipt) is type(granted.receipt)
    assert handed == Lease(
        granted.message,
        granted.fence,
        granted.failures,
        granted.crashes,
        granted.lost,
        granted.expiry_ms,
        handed.receipt,
    )


def test_it_is_called_before_the_commit_and_nobody_else_is_woken(open_broker: Open) -> None:
    publisher = open_broker()
    waiters = [waiting(open_broker(), "photos") for _ in range(3)]
    with at_the_commit(publisher, lambda: [rung(one) for one in waiters]) as seen:
        publish(publisher, message())
    (called,) = seen
    assert isinstance(called, list)
    assert sum(called) == 1
    assert [rung(one) for one in waiters] == called


def test_what_it_is_called_for_is_not_taken_before_the_commit(open_broker: Open) -> None:
    """It is in the call already, to be read while the disk works."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")

    def look() -> bytes:
        waiter._bells.drain()
        waiter._handover._get_ready(["photos"])
        assert waiter._bells.handed == []
        return waiter._bells.called_for

    with at_the_commit(publisher, look) as seen:
        (new,) = publish(publisher, message())
    assert seen[0]
    assert ids(claim(waiter, limit=2)) == [new.id]


def test_a_ring_between_the_call_and_the_commit_takes_nothing_away(open_broker: Open) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    with at_the_commit(publisher, lambda: waiter._bells._wake(waiter._bells._name)):
        (new,) = publish(publisher, message())
    assert ids(claim(waiter, limit=2)) == [new.id]


def test_whose_wish_is_taken_while_it_is_called_asks_again(open_broker: Open) -> None:
    """It asked for the time after the commit before that, and somebody has rung it meanwhile."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")

    def ready_and_rung() -> None:
        waiter._bells.drain()
        waiter._handover._get_ready(["photos"])
        publisher._bells.ring(["photos"])

    with at_the_commit(publisher, ready_and_rung):
        publish(publisher, message())
    assert len(claim(waiter, limit=2)) == 1
    assert not rung(waiter)
    publish(publisher, message())
    assert rung(waiter)


def test_a_wish_whose_taker_died_is_asked_for_again_by_the_next_claim(
    open_broker: Open, path: Path
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    assert len(claim(waiter, limit=2)) == 1
    (path.with_name("photos.db-bells") / f"photos@{waiter._bells._name}").unlink()
    publish(publisher, *messages(2))
    assert not rung(waiter)
    assert len(claim(waiter, limit=5)) == 2
    publish(publisher, *messages(2))
    assert rung(waiter)


def test_who_is_called_while_it_asks_again_has_one_wish_and_not_two(
    open_broker: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two names of one file none can be renamed into the other: both would stay for good."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    link = os.link

    def linking(*names: str) -> None:
        monkeypatch.undo()
        publish(publisher, message())
        link(*names)

    monkeypatch.setattr(os, "link", linking)
    assert len(claim(waiter, limit=2)) in (0, 1)
    assert sum("photos" in name for name in bells_of(path)) == 1
    assert claim(waiter, limit=0) == []
    assert [name for name in bells_of(path) if "photos" in name] == []


def test_who_has_no_descriptor_left_takes_nobodys_wish(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    monkeypatch.setattr(publisher._bells, "_opened", lambda _: -1)
    publisher._bells.ring(["photos"])
    monkeypatch.undo()
    assert not rung(waiter)
    publisher._bells.ring(["photos"])
    assert rung(waiter)


def test_each_message_goes_to_another_waiter(open_broker: Open) -> None:
    publisher = open_broker()
    waiters = [waiting(open_broker(), "photos") for _ in range(3)]
    publish(publisher, message())
    publish(publisher, message())
    publish(publisher, message())
    assert count(publisher, "lease") == 3
    assert sorted(len(claim(one, limit=2)) for one in waiters) == [1, 1, 1]


def test_a_waiter_that_has_something_is_rung_and_nothing_is_handed_to_it(
    open_broker: Open,
) -> None:
    """It may be busy with what it has, and what was handed over would wait for it."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos", "videos")
    publish(publisher, message("videos"))
    assert len(claim(waiter, "photos", "videos", limit=2)) == 1
    publish(publisher, message())
    publish(publisher, message("videos"))
    assert count(publisher, "ready") == 2
    assert rung(waiter)
    assert len(claim(waiter, "photos", "videos", limit=3)) == 2


@pytest.mark.parametrize(
    "new",
    [
        [message(due_ms=ManualClock().wall_ms() + 10)],
        [message(args=b'"%s"' % (b"x" * LONGEST_NOTE))],
        messages(2),
    ],
    ids=["later", "long", "two"],
)
def test_what_is_no_single_short_message_for_now_is_stored_as_ever(
    open_broker: Open, clock: ManualClock, new: list[Message]
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, *new)
    assert count(publisher, "lease") == 0
    assert rung(waiter)
    clock.advance(10)
    assert ids(claim(waiter, limit=5)) == ids(new)


def test_what_is_handed_over_does_not_overtake_what_falls_due(
    open_broker: Open, clock: ManualClock
) -> None:
    publisher = open_broker()
    first = publish(publisher, message(due_ms=clock.wall_ms() + 10))
    waiter = waiting(open_broker(), "photos")
    clock.advance(10)
    last = publish(publisher, message())
    assert count(publisher, "lease") == 0
    assert ids(claim(waiter, limit=5)) == ids([*first, *last])


def test_of_a_queue_that_is_paused_nothing_is_handed_over(open_broker: Open) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publisher.inspector().pause("photos")
    publish(publisher, message())
    assert count(publisher, "lease") == 0
    assert claim(waiter, limit=5) == []
    publisher.inspector().resume("photos")
    assert rung(waiter)
    assert len(claim(waiter, limit=5)) == 1


def test_what_is_handed_over_does_not_overtake_what_is_ready(open_broker: Open) -> None:
    """Another has waited and does not come."""
    publisher, gone = open_broker(), waiting(open_broker(), "photos")
    first = publish(publisher, *messages(2))
    waiter = open_broker()
    waiter._bells.fd()
    waiter._bells.arm(["photos"], idle=True)
    last = publish(publisher, message())
    assert rung(waiter)
    assert rung(gone)
    assert ids(claim(waiter, limit=5)) == ids([*first, *last])


def test_a_duplicate_is_not_handed_over(open_broker: Open) -> None:
    publisher = open_broker()
    (whole,) = publish(publisher, message(unique_key="a"))
    assert claim_one(publisher).message == whole
    waiter = waiting(open_broker(), "photos")
    assert publisher.publish([message(unique_key="a")]) == [Duplicate(whole.id)]
    assert count(publisher, "lease") == 1
    assert claim(waiter, limit=2) == []


def test_a_waiter_that_died_is_handed_nothing(open_broker: Open, path: Path) -> None:
    alive = waiting(open_broker(), "photos")
    folder = path.with_name("photos.db-bells")
    with child(wait_for_work, folder, "photos", b"\x00") as (_, pipe):
        assert pipe.recv() == "armed"
    for _ in range(2):
        publish(open_broker(), message())
    assert count(alive, "lease") == 1
    assert len(claim(alive, limit=5)) == 1
    assert len(claim(alive, limit=5)) == 1


def test_what_is_handed_to_one_that_closes_meanwhile_goes_back_at_once(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was called, and closed its bell between the commit and the note."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    idle = open_broker()
    tell = publisher._bells.tell

    def telling(*, is_handed: bool) -> bool:
        if is_handed:
            waiter._bells.close()
            waiting(idle, "photos")
        return tell(is_handed=is_handed)

    monkeypatch.setattr(publisher._bells, "tell", telling)
    publish(publisher, message())
    assert rung(idle)
    lease = claim_one(idle)
    assert (lease.fence, lease.lost) == (2, 0)


def test_closing_gives_back_what_was_handed_over(open_broker: Open) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    waiter.close()
    lease = claim_one(publisher)
    assert (lease.fence, lease.lost) == (2, 0)


def test_a_full_claim_gives_back_what_is_being_handed_over(open_broker: Open, path: Path) -> None:
    """Its publisher is at its commit, so there is nothing to be seen yet but that it called."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos", "videos")
    photo = message()
    publish(publisher, photo)
    with ThreadPoolExecutor(1) as aside:
        fill = partial(in_line, aside, path, claim, waiter, "photos", "videos", limit=1)
        with at_the_commit(publisher, fill) as seen:
            publish(publisher, message("videos"))
        (filled,) = seen
        assert isinstance(filled, Future)
        assert ids(filled.result(10)) == [photo.id]
    lease = claim_one(publisher, "videos")
    assert (lease.fence, lease.lost) == (2, 0)


def test_what_is_handed_over_beyond_the_room_or_for_another_queue_goes_back(
    open_broker: Open,
) -> None:
    waiter, publisher = waiting(open_broker(), "photos", "videos"), open_broker()
    photo, video = message(), message("videos")
    publish(publisher, photo)
    publish(publisher, video)
    assert count(publisher, "lease") == 2
    assert ids(claim(waiter, "videos", limit=5)) == [video.id]
    lease = claim_one(publisher)
    assert (lease.message.id, lease.fence, lease.lost) == (photo.id, 2, 0)


def test_what_has_lain_is_renewed_before_its_holder_counts_from_now(
    open_broker: Open, clock: ManualClock
) -> None:
    waiter, publisher = waiting(open_broker(), "photos"), open_broker()
    publish(publisher, message())
    clock.advance(VISIBILITY_MS // 2)
    (lease,) = claim(waiter, limit=2)
    clock.advance(VISIBILITY_MS - 1)
    assert claim(publisher) == []
    assert settle(waiter, lease, Ack()) == APPLIED


def test_what_has_lain_until_another_holds_it_is_not_taken(
    open_broker: Open, clock: ManualClock
) -> None:
    """A worker that was stopped: its lease ran out, as that of any that stops."""
    waiter, publisher = waiting(open_broker(), "photos"), open_broker()
    publish(publisher, message())
    clock.advance(VISIBILITY_MS)
    other = claim_one(publisher)
    assert other.lost == 1
    assert claim(waiter, limit=2) == []
    assert settle(publisher, other, Ack()) == APPLIED


def test_what_cannot_be_renewed_now_is_taken_later(
    open_broker: Open, clock: ManualClock, path: Path
) -> None:
    waiter, publisher = waiting(open_broker(), "photos"), open_broker()
    publish(publisher, message())
    clock.advance(VISIBILITY_MS // 2)
    waiter._db.hurry(0.1)
    other = WriteLock(path)
    other.acquire(10)
    with pytest.raises(BrokerBusy):
        claim(waiter, limit=2)
    other.release()
    other.close()
    assert len(claim(waiter, limit=2)) == 1


def test_a_publish_that_is_undone_hands_nothing_over(open_broker: Open) -> None:
    """Its seq is the next message's: what is told must never be of that."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publisher._db.connection.set_commit_hook(lambda: True)
    with pytest.raises(BrokerError):
        publisher.publish([message()])
    publisher._db.connection.set_commit_hook(None)
    other = open_broker()
    (whole,) = publish(other, message("videos"))
    theirs = claim_one(other, "videos")
    publish(publisher, message("videos"))
    assert count(publisher, "lease") == 1, "nobody waits for it"
    assert rung(waiter)
    assert claim(waiter, limit=2) == []
    assert settle(other, theirs, Ack()) == APPLIED
    assert theirs.message.id == whole.id


def test_a_late_acknowledgement_of_what_was_handed_over_is_stale(
    open_broker: Open, clock: ManualClock
) -> None:
    waiter, publisher = waiting(open_broker(), "photos"), open_broker()
    publish(publisher, message())
    lease = claim_one(waiter)
    clock.advance(VISIBILITY_MS)
    again = claim_one(publisher)
    assert again.fence == 2
    assert settle(waiter, lease, Ack()) == STALE
    assert settle(publisher, again, Release()) == APPLIED


def test_rings_and_notes_that_come_together_are_told_apart(open_broker: Open, path: Path) -> None:
    waiter, publisher = waiting(open_broker(), "photos"), open_broker()
    fifo = os.open(
        path.with_name("photos.db-bells") / waiter._bells._name, os.O_WRONLY | os.O_NONBLOCK
    )
    os.write(fifo, b"!!")
    publish(publisher, message(args=b'"!?="'))
    os.write(fifo, b"!")
    os.close(fifo)
    assert len(claim(waiter, limit=2)) == 1
    assert select.select([waiter.bell()], [], [], 0)[0] == []


def test_a_full_claim_that_could_not_ask_no_more_says_so(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is handed over meanwhile lies until its lease runs out."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message("videos"))

    def held(*_: object) -> None:
        raise BrokerBusy("held")

    with monkeypatch.context() as patch:
        patch.setattr(waiter._bells, "disarm", held)
        found = waiter.claim(["videos"], 1)
    assert (len(found.leases), found.still_asks) == (1, True)
    publish(publisher, message())
    assert claim(waiter, limit=0) == []
    assert claim_one(publisher).lost == 0


def test_who_was_called_while_it_found_something_gives_it_back_when_it_stops(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks to be rung only, from then on; but its last wish had been taken already."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos", "videos")
    arm = waiter._bells.arm

    def arming(queues: Sequence[str], *, idle: bool) -> bool:
        publish(publisher, message("videos"))
        return arm(queues, idle=idle)

    publish(publisher, message())
    with monkeypatch.context() as patch:
        patch.setattr(waiter._bells, "arm", arming)
        assert len(claim(waiter, "photos", "videos", limit=5)) == 1
    assert claim(waiter, "photos", "videos", limit=0) == []
    assert claim_one(publisher, "videos").lost == 0


def test_who_is_called_twice_before_it_claims_gives_back_what_is_too_much(
    open_broker: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked, and asked again although it had been called meanwhile."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    arm = waiter._bells.arm

    def arming(queues: Sequence[str], *, idle: bool) -> bool:
        publish(publisher, message())
        return arm(queues, idle=idle)

    with monkeypatch.context() as patch:
        patch.setattr(waiter._bells, "arm", arming)
        patch.setattr(waiter, "_found", lambda *_: Claim([], None))
        assert claim(waiter, limit=1) == []
    with ThreadPoolExecutor(1) as aside:
        fill = partial(in_line, aside, path, claim, waiter, limit=1)
        with at_the_commit(publisher, fill) as seen:
            publish(publisher, message())
        (filled,) = seen
        assert isinstance(filled, Future)
        assert len(filled.result(10)) == 1
    lease = claim_one(publisher)
    assert (lease.fence, lease.lost) == (2, 0)


def test_what_could_not_be_given_back_is_when_the_broker_closes(
    open_broker: Open, path: Path
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    waiter._db.hurry(0.1)
    other = WriteLock(path)
    other.acquire(10)
    with pytest.raises(BrokerBusy):
        claim(waiter, limit=0)
    other.release()
    other.close()
    waiter.close()
    assert claim_one(publisher).lost == 0


def test_what_is_not_known_to_be_given_back_is_given_back_again(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    settle, answers = waiter.settle, []

    def settling(settlements: Sequence[Settlement]) -> list[Settled]:
        found = settle(settlements)
        answers.append(found if answers else [UNKNOWN])
        return answers[-1]

    monkeypatch.setattr(waiter, "settle", settling)
    assert claim(waiter, limit=0) == []
    assert answers == [[UNKNOWN], [STALE]], "it took effect the first time"
    assert claim_one(publisher).lost == 0


def test_a_ring_finds_who_changes_its_wish_meanwhile(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From asking to be rung to waiting idle, between the look at the folder and the ring."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    waiter._bells.arm(["photos"], idle=False)
    listed = publisher._bells._entries.names

    def listing() -> list[str]:
        names = listed()
        waiter._bells.arm(["photos"], idle=True)
        return names

    monkeypatch.setattr(publisher._bells._entries, "names", listing)
    publish(publisher, *messages(2))
    assert rung(waiter)


def test_whom_a_publisher_called_that_died_waits_for_it_once(open_broker: Open) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    assert publisher._bells.reach("photos")
    assert publisher._bells.call(b"")
    os.close(publisher._bells._callee)
    publisher._bells._callee = -1
    assert claim(waiter) == []
    assert not waiter._bells._is_called
    publish(publisher, message())
    assert len(claim(waiter, limit=2)) == 1


def test_a_look_for_results_leaves_a_bell_ringing_with_which_something_came(
    open_broker: Open,
) -> None:
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    waiter.results([bytes(16)])
    assert rung(waiter)
    assert len(claim(waiter, limit=2)) == 1
    assert not rung(waiter)


@pytest.mark.parametrize("long", [0, 1])
def test_what_is_not_handed_over_wakes_one_waiter(open_broker: Open, long: int) -> None:
    publisher = open_broker()
    waiters = [waiting(open_broker(), "photos") for _ in range(3)]
    if not long:
        publisher.inspector().pause("photos")
    publish(publisher, message(args=b'"%s"' % (b"x" * LONGEST_NOTE * long)))
    assert sum(map(rung, waiters)) == 1


def test_what_another_version_tells_is_not_taken(open_broker: Open, clock: ManualClock) -> None:
    """And it comes back, when its lease runs out."""
    publisher, waiter = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    waiter._bells.drain()
    waiter._bells.handed[:] = [b"\x02" + waiter._bells.handed[0][1:], b"\x01\xc1"]
    assert claim(waiter, limit=2) == []
    clock.advance(VISIBILITY_MS)
    assert claim_one(waiter).lost == 1


def test_it_is_renewed_if_it_is_older_than_its_holder_may_count_too_long(
    open_broker: Open, clock: ManualClock
) -> None:
    hour = 3_600_000
    publisher = open_broker()
    for lain, expiry in ((50, hour - 50), (51, hour)):
        waiter = waiting(open_broker(), "photos")
        publish(publisher, message(visibility_timeout_ms=hour))
        clock.advance(lain)
        lease = claim_one(waiter)
        (left,) = publisher._db.connection.execute("SELECT expiry_ms FROM lease").fetchone()
        assert left - clock.boot_ms() == expiry
        settle(waiter, lease, Ack())
        waiter.close()
