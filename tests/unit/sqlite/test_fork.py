"""A forked child has no broker, and takes nothing from its parent's."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from dibs.brokers.sqlite import SqliteBroker
from dibs.local.fork import drop_in_child
from dibs.local.lock import WriteLock
from dibs.testing.making import claim, claim_one, message, publish
from tests.unit.sqlite.children import bells_at
from tests.unit.sqlite.conftest import Open


def in_child(work: Callable[[], object]) -> str:
    """Return what `work` returns or raises in a forked child."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    answer = os.read(read, 4096).decode()
    os.close(read)
    os.close(write)
    return answer


def test_a_child_is_told_to_open_it_anew(broker: SqliteBroker) -> None:
    assert "BrokerError" in in_child(lambda: broker.publish([message()]))
    assert "open it anew" in in_child(lambda: broker.claim(["photos"], 1))


def test_closing_it_in_a_child_closes_nothing_of_the_parent(open_broker: Open) -> None:
    broker = open_broker()
    publish(broker, message())
    broker.bell()
    assert in_child(broker.close) == "None"
    assert claim_one(broker)
    broker._db.connection.execute("PRAGMA integrity_check")
    publish(open_broker(), message())


def test_a_child_may_open_its_own(broker: SqliteBroker, open_broker: Open) -> None:
    publish(broker, message())
    assert in_child(lambda: len(claim(open_broker()))) == "1"
    assert claim(broker) == []


def test_a_child_closes_no_file_that_took_the_number_of_a_closed_one(open_broker: Open) -> None:
    broker = open_broker()
    broker.bell()
    broker.close()
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    assert in_child(lambda: [os.fstat(fd).st_rdev for fd in files]).startswith("[")
    for fd in files:
        os.close(fd)


def test_a_child_keeps_neither_its_parents_lock_nor_its_bell(path: Path) -> None:
    """The middle process holds both, forks, and dies; its child lives on."""
    folder = path.with_name("photos.db-bells")

    def hold_both_and_fork() -> int:
        lock, bells = WriteLock(path), bells_at(folder, b"dead")
        lock.acquire(0)
        bells.fd()
        bells.arm(["photos"], idle=True)
        read, write = os.pipe()
        if (survivor := os.fork()) == 0:
            os.write(write, b"!")
            signal.pause()
        os.read(read, 1)
        return survivor

    survivor = int(in_child(hold_both_and_fork))
    try:
        lock = WriteLock(path)
        lock.acquire(0)
        lock.close()
        bells_at(folder, b"alive").ring(["photos"])
        assert os.listdir(folder) == []
    finally:
        os.kill(survivor, signal.SIGKILL)


class Closed:
    """An owner whose descriptor somebody else has closed."""

    def drop(self) -> None:
        os.close(-1)


def test_a_child_has_no_broker_though_something_else_of_its_parents_cannot_be_dropped(
    open_broker: Open,
) -> None:
    """Whichever comes first."""
    owners = [Closed() for _ in range(30)]
    for owner in owners[:15]:
        drop_in_child(owner)
    broker = open_broker()
    for owner in owners[15:]:
        drop_in_child(owner)
    assert "was opened before a fork" in in_child(lambda: broker.publish([message()]))
