"""A bell wakes one waiter that is alive, has room, and waits for that queue; or all who wait for
the end of a message."""

import contextlib
import errno
import os
import select
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dibs.brokers.contract import APPLIED, UNKNOWN
from dibs.brokers.sqlite import SqliteBroker
from dibs.brokers.sqlite.broker import SHARED_BATCH
from dibs.errors import BrokerBusy, BrokerError
from dibs.local import bells
from dibs.local.bells import Bells
from dibs.local.listing import Board, Listing
from dibs.local.lock import WriteLock
from dibs.message import Ack, Lease, Release, Result, Settlement
from dibs.testing.making import claim, claim_one, ids, message, messages, publish, settle
from tests.unit.sqlite.children import bells_at, child, hang_up, wait_for_end, wait_for_work
from tests.unit.sqlite.conftest import Open, in_line, is_queued
from tests.worker.workers import until


def rung(waiter: SqliteBroker | Bells) -> bool:
    fd = waiter.fd() if isinstance(waiter, Bells) else waiter.bell()
    return bool(select.select([fd], [], [], 0)[0])


def waiting(broker: SqliteBroker, *queues: str) -> SqliteBroker:
    broker.bell()
    assert claim(broker, *queues) == []
    return broker


def bells_of(path: Path) -> list[str]:
    return os.listdir(path.with_name("photos.db-bells"))


def test_a_dead_waiter_is_passed_over_and_forgotten(open_broker: Open, path: Path) -> None:
    alive = waiting(open_broker(), "photos")
    mine = set(bells_of(path))
    folder = path.with_name("photos.db-bells")
    for name in (b"\x00", b"\x01", b"\x02"):
        with child(wait_for_work, folder, "photos", name) as (_, pipe):
            assert pipe.recv() == "armed"
    assert len(bells_of(path)) == 8
    for _ in range(4):
        publish(open_broker(), message())
        if rung(alive):
            break
    assert rung(alive)
    alive.close()
    publish(open_broker(), *messages(3))
    assert not mine & set(bells_of(path))
    assert bells_of(path) == []


@contextlib.contextmanager
def at_the_commit(broker: SqliteBroker, look: Callable[[], object]) -> Iterator[list[object]]:
    """Look when all is written and nothing is committed; yield what is seen."""
    seen: list[object] = []

    def committing() -> bool:
        seen.append(look())
        return False

    broker._db.connection.set_commit_hook(committing)
    try:
        yield seen
    finally:
        broker._db.connection.set_commit_hook(None)


def rung_before_the_commit(open_broker: Open) -> tuple[SqliteBroker, SqliteBroker]:
    """Return a publisher, and who will be rung before its commits and has no other ring."""
    publisher, usual = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    assert len(claim(usual, limit=2)) == 1
    assert claim(usual, limit=2) == []
    return publisher, usual


def test_who_was_rung_last_is_rung_before_the_commit_and_nobody_is_after_it(
    open_broker: Open,
) -> None:
    """It wakes up while the disk works: from then on it waits for the lock."""
    publisher, usual = rung_before_the_commit(open_broker)
    idle = waiting(open_broker(), "photos")
    with at_the_commit(publisher, lambda: rung(usual)) as seen:
        publish(publisher, message())
    assert seen == [True]
    assert not rung(idle)
    assert len(claim(usual, limit=2)) == 1


def test_who_begins_to_wait_before_the_commit_is_rung_after_it(open_broker: Open) -> None:
    """It has looked, and found nothing."""
    publisher, usual = open_broker(), waiting(open_broker(), "photos")
    publish(publisher, message())
    assert len(claim(usual)) == 1, "and it has no room for more"
    late = open_broker()
    with at_the_commit(publisher, lambda: waiting(late, "photos")) as seen:
        publish(publisher, message())
    assert seen == [late]
    assert not rung(usual)
    assert rung(late)


def test_a_ring_that_a_look_for_results_drains_is_owed_to_the_next_claim(
    open_broker: Open, path: Path
) -> None:
    """Both come before the commit: what is stored is not to be seen, but to be waited for."""
    publisher, usual = rung_before_the_commit(open_broker)
    with ThreadPoolExecutor(1) as aside:

        def look() -> Future[list[Lease]]:
            usual.results([bytes(16)])
            found = aside.submit(claim, usual, limit=2)
            until(lambda: found.done() or is_queued(path), "it waits for the lock, or is done")
            return found

        with at_the_commit(publisher, look) as seen:
            publish(publisher, message())
        (found,) = seen
        assert isinstance(found, Future)
        assert len(found.result(10)) == 1


def test_settlements_that_break_off_are_answered_and_rung_for_as_far_as_they_came(
    open_broker: Open, path: Path
) -> None:
    broker, other = open_broker(), WriteLock(path)
    publish(broker, *messages(SHARED_BATCH + 100))
    ends = [Settlement(lease, Release(0)) for lease in claim(broker, limit=1_000)]
    waiter = waiting(open_broker(), "photos")
    broker._db.hurry(0.1)
    broker._db.contended = True
    with ThreadPoolExecutor(1) as aside:
        take_it_next = partial(in_line, aside, path, other.acquire, 60)
        with at_the_commit(broker, take_it_next):
            answers = broker.settle(ends)
    assert answers == [APPLIED] * SHARED_BATCH + [UNKNOWN] * 100
    assert rung(waiter)
    with pytest.raises(BrokerBusy):
        broker.settle(ends[SHARED_BATCH:])
    other.close()
    assert broker.settle(ends[SHARED_BATCH:]) == [APPLIED] * 100


def test_a_claim_of_nothing_passes_on_a_ring_for_what_is_not_committed(
    open_broker: Open, path: Path
) -> None:
    """And what is handed over to it by then goes back, as if it had never left."""
    publisher, usual = rung_before_the_commit(open_broker)
    idle = waiting(open_broker(), "photos")
    with ThreadPoolExecutor(1) as aside:
        give_up = partial(in_line, aside, path, claim, usual, limit=0)
        with at_the_commit(publisher, give_up) as seen:
            publish(publisher, message())
        (gave_up,) = seen
        assert isinstance(gave_up, Future)
        assert gave_up.result(10) == []
    assert rung(idle)
    (lease,) = claim(idle, limit=2)
    assert (lease.fence, lease.attempt) == (2, 1)


def test_a_ring_whose_claim_failed_is_passed_on_as_well(open_broker: Open) -> None:
    """By the claim of nothing that does not fail."""
    publisher, usual = rung_before_the_commit(open_broker)
    idle = waiting(open_broker(), "photos")
    usual._db.hurry(0.1)

    def give_up() -> None:
        for limit in (1, 0):
            with pytest.raises(BrokerBusy):
                claim(usual, limit=limit)

    with at_the_commit(publisher, give_up):
        publish(publisher, message())
    assert claim(usual, limit=0) == []
    assert rung(idle)
    assert len(claim(idle, limit=2)) == 1


def test_a_full_claim_passes_on_a_ring_that_came_before_it_asked_for_no_more(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that is for is not committed, so a look for what is left does not tell."""
    publisher, usual = rung_before_the_commit(open_broker)
    idle = waiting(open_broker(), "photos")
    disarm = usual._bells.disarm

    def disarming(*arguments: Any) -> None:
        with at_the_commit(publisher, lambda: disarm(*arguments)):
            publish(publisher, message())

    publish(publisher, message())
    monkeypatch.setattr(usual._bells, "disarm", disarming)
    assert len(claim(usual, limit=1)) == 1
    assert rung(idle)
    assert len(claim(idle, limit=2)) == 1


def test_what_is_published_while_a_rung_claim_arms_its_bell_is_found(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next claim, for which there is no need to wait."""
    publisher, usual = rung_before_the_commit(open_broker)
    arm = usual._bells.arm

    def arming(queues: Sequence[str], *, idle: bool) -> bool:
        publish(open_broker(), message())
        return arm(queues, idle=idle)

    publish(publisher, message())
    monkeypatch.setattr(usual._bells, "arm", arming)
    first, then = usual.claim(["photos"], 3), usual.claim(["photos"], 3)
    assert [len(first.leases), len(then.leases)] == [1, 1]
    assert first.next_in == 0


def test_a_publish_that_is_undone_may_wake_and_leaves_nobody_deaf(open_broker: Open) -> None:
    publisher, usual = rung_before_the_commit(open_broker)
    publisher._db.connection.set_commit_hook(lambda: True)
    with pytest.raises(BrokerError):
        publisher.publish([message()])
    publisher._db.connection.set_commit_hook(None)
    assert rung(usual)
    assert claim(usual) == []
    publish(publisher, message())
    assert rung(usual)


def test_a_waiter_without_room_is_not_rung(open_broker: Open) -> None:
    full, idle = waiting(open_broker(), "photos"), waiting(open_broker(), "photos")
    publish(open_broker(), *messages(2))
    assert [rung(full), rung(idle)] in ([True, False], [False, True])
    if rung(idle):
        full, idle = idle, full
    assert len(claim(full, limit=1)) == 1
    assert rung(idle)
    assert not rung(full)
    assert len(claim(idle, limit=1)) == 1
    publish(open_broker(), message())
    assert not rung(full)


def test_a_claim_that_is_full_of_what_came_while_it_looked_asks_for_no_more(
    open_broker: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, publisher = open_broker(), open_broker()
    full.bell()
    arm = full._bells.arm

    def arming(queues: Sequence[str], *, idle: bool) -> bool:
        publish(publisher, message())
        return arm(queues, idle=idle)

    monkeypatch.setattr(full._bells, "arm", arming)
    assert len(claim(full, limit=1)) == 1
    assert not [name for name in bells_of(path) if "@" in name or "=" in name]


def test_closing_removes_every_file_of_the_waiter(broker: SqliteBroker, path: Path) -> None:
    waiting(broker, "photos", "videos")
    assert len(bells_of(path)) == 3
    broker.close()
    assert bells_of(path) == []


def test_a_lost_folder_costs_bells_and_no_message(broker: SqliteBroker, path: Path) -> None:
    waiting(broker)
    for name in bells_of(path):
        path.with_name("photos.db-bells").joinpath(name).unlink()
    path.with_name("photos.db-bells").rmdir()
    publish(broker, message())
    assert len(claim(broker, limit=2)) == 1


def test_a_queue_whose_name_begins_like_another_is_not_rung(open_broker: Open) -> None:
    waiter = waiting(open_broker(), "photos")
    publish(open_broker(), message("phot"), message("photos-large"))
    assert not rung(waiter)


def test_a_name_that_is_no_queue_reaches_no_file(broker: SqliteBroker, path: Path) -> None:
    waiting(broker, "../photos")
    assert len(bells_of(path)) == 1
    assert sorted(entry.name for entry in path.parent.iterdir() if "=" in entry.name) == []


def test_what_ends_while_it_is_looked_for_is_told_by_the_same_look(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment at which nobody would ring: after the look, before the wish is there."""
    waiter, worker = open_broker(), open_broker()
    (whole,) = publish(worker, message())
    waiter.bell()
    looks = 0
    look = waiter._results

    def look_and_lose(asked: Sequence[bytes]) -> list[Result | None]:
        nonlocal looks
        looks += 1
        found = look(asked)
        if looks == 1:
            settle(worker, claim_one(worker), Ack(b"1", 60_000))
        return found

    monkeypatch.setattr(waiter, "_results", look_and_lose)
    assert waiter.results([whole.id]) == [Result(whole.id, b"1")]
    assert looks == 2
    assert not rung(waiter)


def test_a_wish_is_gone_when_nothing_is_awaited_any_more(open_broker: Open, path: Path) -> None:
    waiter, worker = open_broker(), open_broker()
    first, second = ids(publish(worker, *messages(2)))
    wishes = path.with_name("photos.db-bells") / "ends"
    waiter.bell()
    assert waiter.results([first, second]) == [None, None]
    (wish,) = wishes.iterdir()
    assert wish.stat().st_mode & 0o777 == 0o600
    assert sorted(wish.read_bytes()[at : at + 16] for at in (0, 16)) == sorted([first, second])
    settle(worker, claim_one(worker), Ack())
    waiter.results([first, second])
    assert wish.read_bytes() == second
    settle(worker, claim_one(worker), Ack())
    waiter.results([first, second])
    assert list(wishes.iterdir()) == []
    waiter.results(ids(publish(worker, message())))
    waiter.close()
    assert list(wishes.iterdir()) == []


def test_the_wishes_of_a_dead_process_are_buried(open_broker: Open, path: Path) -> None:
    """By whoever ends what it waited for, or in a quiet moment."""
    worker = open_broker()
    folder = path.with_name("photos.db-bells")
    (whole,) = publish(worker, message())
    for number in range(2):
        with child(wait_for_end, folder, whole.id, bytes([number])) as (_, pipe):
            assert pipe.recv() == "armed"
    alive = open_broker()
    alive.bell()
    assert alive.results([whole.id]) == [None]
    assert len(os.listdir(folder / "ends")) == 3
    (folder / "ends" / "nobody").write_bytes(b"")
    worker.idle()
    assert len(os.listdir(folder / "ends")) == 1
    settle(worker, claim_one(worker), Ack())
    assert rung(alive)
    alive.close()
    assert bells_of(path) == ["ends"]


def test_what_dead_waiters_left_is_buried_though_nothing_would_ring_it(
    broker: SqliteBroker, path: Path
) -> None:
    """Killed while it was busy: its FIFO has no entry, and nobody waits for an end."""
    alive = bells_at(path.with_name("photos.db-bells"), b"alive")
    alive.fd()
    before = set(bells_of(path))
    with child(hang_up, path.with_name("photos.db-bells"), b"dead") as (_, pipe):
        assert pipe.recv() == "hung up"
        broker.idle()
        assert len(bells_of(path)) == 2, "it lives, though it waits for nothing"
    broker.idle()
    assert set(bells_of(path)) == before
    alive.close()


def test_many_dead_are_buried_some_at_a_time(
    broker: SqliteBroker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "LOOKED_AT", 10)
    folder = path.with_name("photos.db-bells")
    living = [bells_at(folder, bytes([n])) for n in range(15)]
    for one in living:
        one.fd()
    for number in range(25):
        os.mkfifo(folder / f"ff{number:02}")
    left = [len(bells_of(path))]
    while left[-1] > 15 and len(left) < 10:
        broker.idle()
        left.append(len(bells_of(path)))
    assert left == [40, 40, 35, 25, 15], "ten are looked at in each, dead or alive"
    for one in living:
        one.close()


def test_a_bell_that_is_being_hung_up_is_not_buried(broker: SqliteBroker, path: Path) -> None:
    """Its owner has made it and not opened it yet, so it looks like a dead one's."""
    waiter, opened = bells_at(path.with_name("photos.db-bells"), b"w"), os.open

    def idle_and_open(name: str, flags: int, *more: int) -> int:
        broker.idle()
        return opened(name, flags, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", idle_and_open)
        fd = waiter.fd()
    assert len(bells_of(path)) == 1
    waiter.arm(["photos"], idle=False)
    publish(broker, message())
    assert select.select([fd], [], [], 0)[0]
    waiter.close()
    assert bells_of(path) == []


def test_a_bell_whose_owner_died_while_it_hung_it_up_is_buried_at_last(
    broker: SqliteBroker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.with_name("photos.db-bells").mkdir()
    os.mkfifo(path.with_name("photos.db-bells") / f"dead{bells.NEW}")
    broker.idle()
    assert len(bells_of(path)) == 1
    monkeypatch.setattr(bells, "NEW_SECONDS", -1.0)
    broker.idle()
    assert bells_of(path) == []


def test_nobody_who_waits_costs_an_acknowledgement_nothing(
    broker: SqliteBroker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is looked at once, and not even the ids are read."""
    publish(broker, *messages(3))
    leases = claim(broker, limit=3)
    looks: list[object] = []
    with monkeypatch.context() as patch:
        for name in ("listdir", "stat"):
            look = getattr(os, name)
            patch.setattr(os, name, lambda at, look=look: looks.append(at) or look(at))
        for lease in leases:
            settle(broker, lease, Ack())
    assert [at for at in looks if at != str(path)] == [f"{path}-bells/ends"]


def test_a_folder_is_read_once_until_somebody_says_that_a_name_was_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: reads.append(folder) or listdir(folder))
    folder = tmp_path / "folder"
    one, other = (Listing(str(folder), Board(tmp_path / "board"), "bells") for _ in range(2))
    assert [one.names(), one.names()] == [[], []]
    folder.mkdir()
    (folder / "name").touch()
    other.changed()
    assert [one.names(), one.names()] == [["name"], ["name"]]
    assert len(reads) == 2
    (folder / "name").unlink()
    one.read_again()
    assert one.names() == []


def test_a_folder_that_could_not_be_read_is_read_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would ever ring whom it names: they have said that they wait."""
    listing = Listing(str(tmp_path), Board(tmp_path / "board"), "bells")

    def no_descriptor_left(_: str) -> list[str]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", no_descriptor_left)
        assert listing.names() == []
    assert listing.names() == ["board"]


def test_a_board_has_its_room_on_the_disk_and_a_full_disk_does_not_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads a hole on a full tmpfs is killed."""
    Board(tmp_path / "board")
    assert (tmp_path / "board").stat().st_blocks > 0

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        listing = Listing(str(tmp_path), Board(tmp_path / "another"), "bells")
        listing.changed()
    assert sorted(listing.names()) == ["another", "board"]


def test_closing_after_a_bell_was_asked_for_is_harmless(open_broker: Open, path: Path) -> None:
    broker = open_broker()
    for _ in range(2):
        broker.bell()
        broker.close()
    assert bells_of(path) == []


def test_a_folder_is_not_read_for_what_was_added_to_another(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    bells, ends = (Listing(str(tmp_path), board, place) for place in ("bells", "ends"))
    assert bells.names() == ["board"]
    (tmp_path / "name").touch()
    ends.changed()
    assert bells.names() == ["board"]
    bells.changed()
    assert sorted(bells.names()) == ["board", "name"]


def test_what_is_added_while_a_folder_is_read_is_seen_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Listing(str(tmp_path), Board(tmp_path / "board"), "bells") for _ in range(2))
    listdir = os.listdir

    def adding(folder: str) -> list[str]:
        names = listdir(folder)
        (tmp_path / "name").touch()
        other.changed()
        return names

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", adding)
        assert one.names() == ["board"]
    assert sorted(one.names()) == ["board", "name"]


def test_whoever_waits_for_an_end_is_rung_after_the_folder_was_cleared_away(
    open_broker: Open, path: Path
) -> None:
    waiter, worker = open_broker(), open_broker()
    (whole,) = publish(worker, message())
    waiter.bell()
    assert waiter.results([whole.id]) == [None]
    shutil.rmtree(path.with_name("photos.db-bells"))
    assert waiter.results([whole.id]) == [None]
    settle(worker, claim_one(worker), Ack())
    assert rung(waiter)
