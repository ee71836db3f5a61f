"""Writers queue on a lock file, in turn, for a bounded time, and know who keeps them waiting."""

import fcntl
import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from dibs.brokers.sqlite import SqliteBroker
from dibs.errors import BrokerBusy
from dibs.local.lock import WriteLock
from dibs.message import Ack, Settlement
from dibs.testing.making import claim, claim_one, message, publish
from tests.unit.alarm import raising_alarm
from tests.unit.sqlite.children import child, stop_inside_a_commit
from tests.unit.sqlite.conftest import Open, is_queued


def await_queue(path: Path) -> None:
    """Return when somebody stands in the queue."""
    while not is_queued(path):
        pass


def test_a_process_stopped_inside_a_commit_is_named_and_stops_nobody_once_dead(
    open_broker: Open, path: Path
) -> None:
    broker = open_broker()
    publish(broker, message())
    with child(stop_inside_a_commit, path) as (process, pipe):
        assert pipe.recv() == "ready"
        assert process.pid is not None
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(BrokerBusy, match=rf"process {process.pid} has held photos.db for \d"):
            broker._db.write(lambda: None, wait=0.05)
        assert broker.inspector().queues()[0].ready == 1
        os.kill(process.pid, signal.SIGKILL)
        assert claim_one(broker).fence == 1


def test_whoever_comes_back_at_once_stands_behind_those_who_wait(path: Path) -> None:
    greedy, patient = WriteLock(path), WriteLock(path)
    greedy.acquire(0)
    waiter = threading.Thread(target=patient.acquire, args=(60,))
    waiter.start()
    await_queue(path)
    greedy.release()
    with pytest.raises(BrokerBusy):
        greedy.acquire(0)
    waiter.join()
    patient.release()
    greedy.acquire(0)
    greedy.close()
    patient.close()


def test_the_first_in_line_takes_a_lock_that_gets_free_at_once_without_going_to_sleep(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, first = WriteLock(path), WriteLock(path)
    holder.acquire(0)
    monkeypatch.setattr("dibs.local.lock.SPIN_SECONDS", 60.0)
    monkeypatch.setattr(os, "sched_yield", holder.release)
    first.acquire(60)
    assert first._helper is None
    first.release()
    holder.acquire(0)  # and has given the turn up
    holder.close()
    first.close()


def test_an_acquisition_that_was_given_up_holds_nothing(path: Path) -> None:
    holder, hasty = WriteLock(path), WriteLock(path)
    holder.acquire(0)
    with pytest.raises(BrokerBusy, match=f"process {os.getpid()} "):
        hasty.acquire(0.01)
    holder.release()
    holder.acquire(60)
    holder.release()
    holder.close()
    hasty.close()


def test_whoever_gave_up_may_come_back(path: Path) -> None:
    holder, hasty = WriteLock(path), WriteLock(path)
    holder.acquire(0)
    for _ in range(3):
        with pytest.raises(BrokerBusy):
            hasty.acquire(0.01)
    threading.Timer(0.01, holder.release).start()
    hasty.acquire(60)
    hasty.release()
    holder.close()
    hasty.close()


def test_whoever_closes_while_waiting_leaves_nothing_behind(path: Path) -> None:
    holder, hasty = WriteLock(path), WriteLock(path)
    holder.acquire(0)
    with pytest.raises(BrokerBusy):
        hasty.acquire(0.01)
    hasty.close()
    holder.release()
    holder.acquire(60)
    holder.close()


def test_looking_for_work_waits_for_no_lock(broker: SqliteBroker, path: Path) -> None:
    lock = WriteLock(path)
    lock.acquire(0)
    assert claim(broker) == []
    broker.idle()
    lock.release()
    lock.close()


def test_law_10_a_call_ends_within_a_sixth_of_the_shortest_visibility_timeout(
    broker: SqliteBroker, path: Path
) -> None:
    publish(broker, message(visibility_timeout_ms=60_000), message(visibility_timeout_ms=1_000))
    leases = [claim_one(broker), claim_one(broker)]
    lock = WriteLock(path)
    lock.acquire(0)
    asked_at = time.monotonic()
    with pytest.raises(BrokerBusy):
        broker.extend(leases)
    assert time.monotonic() - asked_at < 1, "a sixth of a second and not four; the rest is leeway"
    lock.close()


def test_a_short_process_id_after_a_long_one_is_read_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = WriteLock(path)
    for pid in (4_194_304, 7):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        lock = WriteLock(path)
        lock.acquire(0)
        with pytest.raises(BrokerBusy, match=rf"process {pid} has held"):
            other.acquire(0)
        lock.release()
        lock.close()
    other.close()


def test_an_interrupted_wait_leaves_the_lock_to_others(path: Path) -> None:
    holder, interrupted = WriteLock(path), WriteLock(path)
    holder.acquire(0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted.acquire(60)
    finally:
        signal.signal(signal.SIGALRM, before)
    holder.release()
    third = WriteLock(path)
    third.acquire(60)
    third.release()
    for lock in (holder, interrupted, third):
        lock.close()


def test_two_brokers_of_one_process_take_turns(open_broker: Open) -> None:
    one, other = open_broker(), open_broker()
    publish(one, message())
    lease = claim_one(other)
    assert one.settle([Settlement(lease, Ack())])
    assert claim(other) == []


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_exception_between_two_steps_of_taking_the_lock_leaves_both_files_free(
    path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler raises it: whoever is interrupted there may never write again."""
    calls = itertools.count(1)
    flock = fcntl.flock

    def interrupted(fd: int, operation: int) -> None:
        flock(fd, operation)
        if next(calls) == call:
            raise KeyboardInterrupt

    lock, other = WriteLock(path), WriteLock(path)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(1)
    other.acquire(0)
    other.close()
    lock.close()


def test_interrupted_at_any_moment_a_write_leaves_the_lock_to_others(
    broker: SqliteBroker, path: Path
) -> None:
    chance = random.Random(4)
    interrupted = 0
    with raising_alarm():
        for _ in range(1_000):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 0.000_6))
                publish(broker, message())
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    assert interrupted > 100
    other = WriteLock(path)
    other.acquire(0)
    other.close()
    publish(broker, message())
