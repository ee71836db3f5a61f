"""A full disk stops publishing, and nothing else: what is stored is worked off."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from dibs.brokers.contract import Applied
from dibs.brokers.sqlite import SqliteBroker, open_sqlite
from dibs.errors import BrokerFull
from dibs.local.disk import RESERVE_BYTES
from dibs.message import Ack, Nack, Settlement
from dibs.testing import ManualClock
from dibs.testing.making import ERROR, claim, message, messages, publish
from tests.unit.sqlite.conftest import Open

WHAT_WORKS = "nothing new is stored. What is stored is safe, and workers go on .* Free some, and"
ROOM = RESERVE_BYTES + (12 << 20)


def used(folder: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in folder.iterdir())


class SmallDisk(apsw.VFS):
    """A disk with room for `ROOM` bytes in `folder`, for what SQLite writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__("small-disk", "")

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return SmallDiskFile(self, name, flags)


class SmallDiskFile(apsw.VFSFile):
    def __init__(self, disk: SmallDisk, name: object, flags: list[int]) -> None:
        self.disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        grows = offset + len(data) > self.xFileSize()
        if grows and used(self.disk.folder) + len(data) > ROOM:
            raise apsw.FullError
        super().xWrite(data, offset)


@pytest.fixture
def small_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    disk = SmallDisk(path.parent)
    allocate, connect = os.posix_fallocate, apsw.Connection

    def posix_fallocate(fd: int, offset: int, size: int) -> None:
        if used(path.parent) + size > ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, offset, size)

    def small(name: str, flags: int) -> apsw.Connection:
        connection = connect(name, flags=flags, vfs="small-disk")
        # SQLite ignores a checkpoint that fails after a commit; apsw raises what Python raised.
        connection.wal_autocheckpoint(0)
        return connection

    monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)
    monkeypatch.setattr(apsw, "Connection", small)
    return disk


def fill(broker: SqliteBroker) -> int:
    """Publish until the disk is full, and return how many are stored."""
    return sum(publish_until_full(broker, size) for size in (200, 1))


def publish_until_full(broker: SqliteBroker, size: int) -> int:
    count = 0
    try:
        while True:
            broker.publish(messages(size, args=bytes(5_000)))
            broker._db.checkpoint()
            count += size
    except BrokerFull:
        return count


def work_off(broker: SqliteBroker) -> int:
    """Fail everything once, then acknowledge it; return how many there were."""
    count = 0
    while leases := claim(broker, limit=50):
        outcomes = [Ack(b"1", 60_000) if lease.failures else Nack(0, ERROR) for lease in leases]
        settlements = [Settlement(*pair) for pair in zip(leases, outcomes, strict=True)]
        assert broker.settle(settlements) == [Applied()] * len(leases)
        broker._db.checkpoint()
        count += sum(type(outcome) is Ack for outcome in outcomes)
    return count


def prove(open_one: Callable[[], SqliteBroker]) -> None:
    broker = open_one()
    count = fill(broker)
    assert count > 1_000
    with pytest.raises(BrokerFull, match=WHAT_WORKS):
        broker.publish(messages(200, args=bytes(5_000)))
    (counts,) = broker.inspector().queues()
    assert counts.ready == count
    leases = claim(broker, limit=50)
    assert broker.extend(leases)
    broker.settle([Settlement(lease, Ack()) for lease in leases])
    broker.close()
    broker = open_one()
    assert work_off(broker) == count - 50
    for _ in range(100):
        broker.idle()
    assert len(broker.publish(messages(50, args=bytes(5_000)))) == 50


@pytest.mark.usefixtures("small_disk")
def test_publishing_fails_and_work_goes_on(open_broker: Open) -> None:
    prove(open_broker)


@pytest.mark.usefixtures("small_disk")
def test_nothing_is_published_while_the_reserve_is_spent(open_broker: Open, path: Path) -> None:
    broker = open_broker()
    fill(broker)
    reserve = path.with_name("photos.db-reserve")
    while reserve.stat().st_size:
        assert claim(broker, limit=20)
    with pytest.raises(BrokerFull, match="reserve"):
        broker.publish(messages(1))


def test_a_reserve_that_was_spent_or_cleared_away_is_set_aside_again(
    open_broker: Open, path: Path
) -> None:
    """Whoever did that, while it was open here."""
    broker = open_broker()
    reserve = path.with_name("photos.db-reserve")
    publish(broker, message())
    for away in (reserve.unlink, lambda: os.truncate(reserve, 0)):
        away()
        publish(broker, message())
        assert reserve.stat().st_size == RESERVE_BYTES


def test_a_reserve_that_was_moved_is_spent_all_the_same(open_broker: Open, path: Path) -> None:
    broker = open_broker()
    publish(broker, message())
    moved = path.with_name("elsewhere")
    path.with_name("photos.db-reserve").rename(moved)
    broker._db._reserve.spend()
    assert moved.stat().st_size == 0


def test_on_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(tmp_path)
    if libc.mount(b"tmpfs", target, b"tmpfs", 0, b"size=%d" % ROOM):
        pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}; the simulated disk remains")
    opened = []

    def open_one() -> SqliteBroker:
        opened.append(open_sqlite(tmp_path / "photos.db", clock=ManualClock(), worker_id=b"w"))
        return opened[-1]

    try:
        prove(open_one)
    finally:
        for broker in opened:
            broker.close()
        assert libc.umount(target) == 0
