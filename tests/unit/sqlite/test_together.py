"""Publishers that wait for the lock store what they have in one transaction."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import stat
import termios
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from dibs.brokers.contract import STORED, Duplicate, Published
from dibs.brokers.notes import note_of
from dibs.brokers.sqlite import SqliteBroker
from dibs.errors import BrokerBusy, BrokerFull, BrokerUnavailable, PublishUnknown
from dibs.local.group import NOTE_BYTES, Group
from dibs.local.lock import WriteLock
from dibs.message import Ack, Message
from dibs.testing.making import claim, claim_all, ids, message, publish, settle
from tests.unit.sqlite.children import child, lead_and_stop
from tests.unit.sqlite.conftest import Open, is_queued
from tests.unit.sqlite.test_bells import at_the_commit, rung, waiting
from tests.worker.workers import until


def contended(broker: SqliteBroker) -> SqliteBroker:
    """Have it believe that others are at the file."""
    broker._db.contended = True
    return broker


def stored_by(broker: SqliteBroker) -> "contextlib.AbstractContextManager[list[object]]":
    """Note at each of its commits how many messages it has collected, and its own."""
    together = broker._together
    return at_the_commit(broker, lambda: len(together._owners) + together._has_own)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[WriteLock]:
    lock = WriteLock(path)
    lock.acquire(10)
    yield lock
    lock.release()
    lock.close()


def has_left_a_note(broker: SqliteBroker) -> bool:
    waiting = bytearray(4)
    with contextlib.suppress(OSError, ValueError):  # it makes its FIFO just now
        fcntl.ioctl(broker._group._notes, termios.FIONREAD, waiting)
    return any(waiting)


class Publishers:
    """Brokers, each in a thread of its own, that publish a message each while the lock is held."""

    def __init__(self, open_broker: Open, path: Path, count: int) -> None:
        self.path = path
        self.pools = [ThreadPoolExecutor(1) for _ in range(count)]
        self.brokers = [one.submit(open_broker).result(10) for one in self.pools]

    def publish(self, number: int, new: Message) -> Future[list[Published]]:
        """Have one publish; return when it waits: the first in line, or for an answer."""
        broker = contended(self.brokers[number])
        answer = self.pools[number].submit(broker.publish, [new])
        until(lambda: has_left_a_note(broker), "it has left its note")
        until(lambda: is_queued(self.path), "somebody waits for the lock")
        return answer

    def publish_now(self, number: int, new: Message) -> list[Published]:
        """Have one publish as one of the group, with nobody at the file."""
        broker = contended(self.brokers[number])
        return self.pools[number].submit(broker.publish, [new]).result(10)

    def close(self) -> None:
        for pool, broker in zip(self.pools, self.brokers, strict=True):
            pool.submit(broker.close).result(10)
            pool.shutdown()


@pytest.fixture
def publishers(open_broker: Open, path: Path) -> Iterator[Publishers]:
    made = Publishers(open_broker, path, 4)
    yield made
    made.close()


def test_all_who_wait_for_the_lock_share_one_commit(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    new = [message(args=b"%d" % n) for n in range(4)]
    with contextlib.ExitStack() as seen:
        counts = [seen.enter_context(stored_by(one)) for one in publishers.brokers]
        with locked(path):
            answers = [publishers.publish(n, one) for n, one in enumerate(new)]
        assert [one.result(10) for one in answers] == [[STORED]] * 4
        assert [count for each in counts for count in each if count] == [4]
    assert sorted(ids(claim_all(broker))) == sorted(ids(new))


def test_each_learns_whether_its_own_is_a_duplicate(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    (there,) = publish(broker, message(unique_key="a"))
    with locked(path):
        leader = publishers.publish(0, message())
        known = publishers.publish(1, message(unique_key="a"))
        twins = [publishers.publish(n, message(unique_key="b")) for n in (2, 3)]
    assert leader.result(10) == [STORED]
    assert known.result(10) == [Duplicate(there.id)]
    first, second = sorted((one.result(10)[0] for one in twins), key=lambda a: a != STORED)
    assert first == STORED
    assert isinstance(second, Duplicate)
    assert len(claim_all(broker)) == 3


def test_whoever_waits_for_work_is_rung_for_what_others_have_left(
    publishers: Publishers, path: Path, open_broker: Open
) -> None:
    a, b = waiting(open_broker(), "a"), waiting(open_broker(), "b")
    with locked(path):
        answers = [publishers.publish(n, message(queue)) for n, queue in enumerate("ab")]
    for answer in answers:
        answer.result(10)
    assert rung(a)
    assert rung(b)


def test_what_is_too_long_for_a_note_is_stored_alone(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    long = message(args=b'"%s"' % (b"x" * NOTE_BYTES))
    assert publishers.publish_now(0, long) == [STORED]
    assert not path.with_name("photos.db-group").exists()
    assert ids(claim_all(broker)) == [long.id]


def test_who_waits_in_vain_takes_back_what_it_left(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    """`BrokerBusy` says that nothing was stored: so nobody may store it later."""
    for one in publishers.brokers:
        one._db.hurry(0.2)
    with locked(path):
        answers = [publishers.publish(n, message()) for n in range(3)]
        for answer in answers:
            with pytest.raises(BrokerBusy, match=f"process {os.getpid()} has held"):
                answer.result(10)
    last = message()
    assert publishers.publish_now(3, last) == [STORED]
    assert ids(claim_all(broker)) == [last.id]


def test_when_a_leader_fails_the_others_lead_and_see_for_themselves(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    """They may be through before it has said what became of its own."""
    first = publishers.brokers[0]
    give_up = first._group.lead_no_more

    def give_up_and_be_slow() -> None:
        give_up()
        wait(others, 10)

    with locked(path):
        leader = publishers.publish(0, message())
        first._db._reserve.keep = full
        others = [publishers.publish(n, message()) for n in (1, 2)]
        first._group.lead_no_more = give_up_and_be_slow
    with pytest.raises(BrokerFull):
        leader.result(10)
    assert [one.result(10) for one in others] == [[STORED]] * 2
    assert len(claim_all(broker)) == 2


def full() -> None:
    raise BrokerFull("no room")


def test_when_a_leader_fails_at_its_commit_nothing_of_it_is_stored_twice(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    """They had been collected, and nobody answers: who has the lock then knows it."""
    with locked(path):
        leader = publishers.publish(0, message())
        others = [publishers.publish(n, message()) for n in (1, 2, 3)]
        publishers.brokers[0]._db.connection.set_commit_hook(lambda: True)
    with pytest.raises(BrokerUnavailable):
        leader.result(10)
    assert [one.result(10) for one in others] == [[STORED]] * 3
    assert len(claim_all(broker)) == 3
    publishers.brokers[0]._db.connection.set_commit_hook(None)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("is_done", [False, True])
def test_what_a_leader_had_collected_when_it_died_is_stored_once(
    publishers: Publishers, path: Path, broker: SqliteBroker, moment: str, is_done: bool
) -> None:
    """Killed before its commit, or between that and its answers, when a worker may be quicker."""
    new = message(unique_key="a")
    with child(lead_and_stop, path, moment) as (process, pipe):
        assert pipe.recv() == "ready"
        with locked(path):
            pipe.send("go")
            until(lambda: is_queued(path), "it leads")
            answer = publishers.publish(0, new)
        assert pipe.recv() == moment
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if is_done and moment == "after":
            for lease in claim_all(broker):
                settle(broker, lease, Ack())
    assert answer.result(10) == [STORED]
    found = ids(claim_all(broker))
    assert found.count(new.id) == (not (is_done and moment == "after"))


def test_what_a_leader_has_when_it_is_stopped_inside_its_commit_may_be_stored(
    publishers: Publishers, path: Path
) -> None:
    """It cannot be taken back: nobody can tell what becomes of it."""
    publishers.brokers[0]._db.hurry(0.5)
    with child(lead_and_stop, path, "before") as (process, pipe):
        assert pipe.recv() == "ready"
        with locked(path):
            pipe.send("go")
            until(lambda: is_queued(path), "it leads")
            answer = publishers.publish(0, message())
        assert pipe.recv() == "before"
        with pytest.raises(PublishUnknown, match=f"process {process.pid} has held"):
            answer.result(10)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(
    publishers: Publishers, broker: SqliteBroker
) -> None:
    first = publishers.brokers[0]
    assert publishers.publish_now(0, message()) == [STORED]
    stale = bytes.fromhex(first._group._name) + first._group._ticket.to_bytes(8)
    group = Group(Path(first._group._folder), first._board)
    group.answer(stale, b"f" + bytes(16))
    assert publishers.publish_now(0, message()) == [STORED]
    assert len(claim_all(broker)) == 2
    group.drop()


def test_an_interrupt_takes_back_what_was_left(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = contended(open_broker())

    def interrupted() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(broker._group, "leads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broker.publish([message()])
    other = contended(open_broker())
    assert other.publish([message()]) == [STORED]
    assert len(claim(other, limit=5)) == 1


def test_one_message_that_a_leader_stores_may_be_handed_over(
    publishers: Publishers, open_broker: Open
) -> None:
    waiter = waiting(open_broker(), "photos")
    assert publishers.publish_now(0, message()) == [STORED]
    (lease,) = claim(waiter, limit=2)
    assert lease.fence == 1
    assert settle(waiter, lease, Ack()) is not None


def test_what_is_not_its_own_a_leader_hands_over_to_nobody(open_broker: Open) -> None:
    """Were it to die before it tells, nobody would know of that lease."""
    leader, other, waiter = open_broker(), open_broker(), waiting(open_broker(), "photos")
    publish(contended(leader), message("videos"))
    new = message()
    assert other._group.leave(note_of(new))
    assert leader._together._lead(message(), leader._commit) == [STORED]
    (lease,) = claim(waiter, limit=2)
    assert lease.message == new
    assert waiter._bells.handed == []
    assert waiter._bells.called_for == b""


def test_a_file_that_was_replaced_is_not_published_to_by_others(
    open_broker: Open, path: Path
) -> None:
    broker = contended(open_broker())
    path.rename(path.with_name("other.db"))
    with pytest.raises(BrokerUnavailable, match="not the file any more"):
        broker.publish([message()])


def group_files(path: Path) -> list[str]:
    return sorted(os.listdir(path.with_name("photos.db-group")))


def test_closing_leaves_nothing_in_the_folder_and_it_is_private(
    open_broker: Open, path: Path
) -> None:
    before = os.umask(0)
    try:
        broker = contended(open_broker())
        publish(broker, message())
    finally:
        os.umask(before)
    folder = path.with_name("photos.db-group")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in group_files(path)} == {0o600}
    assert len(group_files(path)) == 3
    broker.close()
    assert group_files(path) == ["lead"]


def test_the_dead_are_buried_and_their_descriptors_closed(
    publishers: Publishers, path: Path, open_broker: Open
) -> None:
    with child(lead_and_stop, path, "after") as (process, pipe):
        assert pipe.recv() == "ready"
        pipe.send("go")
        assert pipe.recv() == "after"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    for n in range(4):
        assert publishers.publish_now(n, message()) == [STORED]
    assert len(group_files(path)) == 2 * 4 + 1
    leader = contended(open_broker())
    publish(leader, message())
    assert len(leader._group._others) == 2 * 4
    publishers.pools[0].submit(publishers.brokers[0].close).result(10)
    contended(leader)
    publish(leader, message())
    assert len(leader._group._others) == 2 * 3


def test_a_lost_folder_costs_time_and_no_message(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    folder = path.with_name("photos.db-group")
    for _ in range(2):
        assert publishers.publish_now(0, message()) == [STORED]
        for name in group_files(path):
            (folder / name).unlink()
        folder.rmdir()
    with locked(path):
        answers = [publishers.publish(n, message()) for n in range(3)]
    assert [one.result(10) for one in answers] == [[STORED]] * 3
    assert len(claim_all(broker)) == 5


def test_a_note_that_this_version_cannot_read_is_left_to_its_owner(
    publishers: Publishers, path: Path, monkeypatch: pytest.MonkeyPatch, broker: SqliteBroker
) -> None:
    second = publishers.brokers[1]
    leave = second._group.leave
    for begin in (b"\x02", b"\x01\xc1"):
        monkeypatch.setattr(second._group, "leave", lambda note, b=begin: leave(b + note[1:]))
        with locked(path):
            answers = [publishers.publish(n, message()) for n in range(2)]
        assert [one.result(10) for one in answers] == [[STORED]] * 2
        assert publishers.brokers[0]._together._owners == []
        assert len(claim_all(broker)) == 2


def test_who_could_not_be_answered_is_not_collected(
    publishers: Publishers, path: Path, broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would not know that it is stored, and store it again."""
    group = publishers.brokers[0]._group
    opened = group._opened

    def opening(name: str, flags: int) -> int:
        if flags == os.O_WRONLY:
            raise OSError(errno.EMFILE, "too many files open")
        return opened(name, flags)

    with locked(path):
        leader = publishers.publish(0, message())
        monkeypatch.setattr(group, "_opened", opening)
        other = publishers.publish(1, message())
    assert leader.result(10) == [STORED]
    assert publishers.brokers[0]._together._owners == []
    assert other.result(10) == [STORED]
    assert len(claim_all(broker)) == 2


def test_what_a_dead_leader_found_to_be_a_duplicate_is_told_as_one(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    """Also if what was there is done by then, and nothing of it is to be seen."""
    (there,) = publish(broker, message(unique_key="a"))
    with child(lead_and_stop, path, "after") as (process, pipe):
        assert pipe.recv() == "ready"
        with locked(path):
            pipe.send("go")
            until(lambda: is_queued(path), "it leads")
            answer = publishers.publish(0, message(unique_key="a"))
        assert pipe.recv() == "after"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for lease in claim_all(broker):
            settle(broker, lease, Ack())
    assert answer.result(10) == [Duplicate(there.id)]


def test_whoever_leaves_just_now_and_what_cannot_be_opened_is_passed_over(
    publishers: Publishers, path: Path, broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publishers.brokers[0]
    assert publishers.publish_now(0, message()) == [STORED]
    folder = path.with_name("photos.db-group")
    (folder / "00ff00ff00ff00ff").symlink_to(folder / "nowhere")
    members = first._group._members
    names = [*os.listdir(folder), "ff00ff00ff00ff00"]
    monkeypatch.setattr(members, "names", lambda: names)
    assert publishers.publish_now(0, message()) == [STORED]
    assert len(claim_all(broker)) == 2


def test_descriptors_of_any_number_will_do(
    publishers: Publishers, path: Path, broker: SqliteBroker
) -> None:
    """A web server has its first thousand taken."""
    with locked(path):
        answers = [publishers.publish(n, message()) for n in range(2)]
    for answer in answers:
        answer.result(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))
    try:
        for one in publishers.brokers:
            group = one._group
            if group._lead >= 0:
                high = fcntl.fcntl(group._answers, fcntl.F_DUPFD_CLOEXEC, 1_100)
                os.close(group._answers)
                group._answers = high
        with locked(path):
            answers = [publishers.publish(n, message()) for n in range(2)]
        assert [one.result(10) for one in answers] == [[STORED]] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(claim_all(broker)) == 4


def test_a_leader_that_is_stopped_in_line_holds_up_nobody_for_long(
    publishers: Publishers, broker: SqliteBroker
) -> None:
    """It has the lead and not the lock: who waits for it goes alone at half its time."""
    publishers.publish_now(0, message())
    publishers.publish_now(1, message())
    assert publishers.brokers[0]._group.leads()
    publishers.brokers[1]._db.hurry(0.5)
    assert publishers.publish_now(1, message()) == [STORED]
    publishers.brokers[0]._group.lead_no_more()
    assert len(claim_all(broker)) == 3


def test_no_call_waits_for_the_lock_longer_than_one_may(publishers: Publishers, path: Path) -> None:
    """Neither in the group and then alone."""
    waits: list[float] = []
    database = publishers.brokers[0]._db
    database.hurry(1.0)
    acquire = database._lock.acquire
    database._lock.acquire = lambda seconds: waits.append(seconds) or acquire(seconds)
    publishers.publish_now(1, message())
    assert publishers.brokers[1]._group.leads()
    with locked(path), pytest.raises(BrokerBusy):
        publishers.publish_now(0, message())
    publishers.brokers[1]._group.lead_no_more()
    assert len(waits) == 1
    assert 0 < waits[0] <= 0.41


def test_an_answer_that_came_is_believed_though_its_owner_could_not_lead(
    publishers: Publishers, broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publishers.brokers[0]
    assert publishers.publish_now(0, message()) == [STORED]

    def answered_and_busy(*_: object) -> list[Published]:
        first._group.take_back()
        first._group.answer(first._group.whom, b"s")
        raise BrokerBusy("not now")

    monkeypatch.setattr(first, "_commit", answered_and_busy)
    assert publishers.publish_now(0, message()) == [STORED]
    assert len(claim_all(broker)) == 1
