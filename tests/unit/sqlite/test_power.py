"""A loss of power at any instant loses nothing that was confirmed, and brings nothing back.

What SQLite writes goes through a layer that notes it. A file as it lies on a disk after the loss is
what was synced, and of what was written since any part: each write is there, is not, or is torn.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from dibs.brokers.contract import APPLIED, STORED
from dibs.brokers.sqlite import SqliteBroker
from dibs.message import Ack, Nack, Settlement
from dibs.testing.making import ERROR, messages
from tests.unit.sqlite.children import open_here, taken_by

BASE = "unix"
SECTOR = 512
LOSSES = 60


class Disk(apsw.VFS):
    """Notes each write and sync, by the end of the file's name, beside what the broker said.

    Its methods, and those of its files, have the names that SQLite gave them (N802).
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, str, int, bytes]] = []
        super().__init__("noting", BASE, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return File(self, name, flags)


class File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._log, self._name = disk.log, Path(path).name
        super().__init__(BASE, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._log.append(("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._log.append(("truncate", self._name, size, b""))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._log.append(("sync", self._name, 0, b""))


@contextmanager
def noting() -> Iterator[Disk]:
    disk = Disk()
    try:
        yield disk
    finally:
        disk.unregister()


def change(content: bytearray, what: str, at: int, data: bytes) -> None:
    if what == "truncate":
        del content[at:]
    else:
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data


def left_by_a_loss(
    log: list[tuple[str, str, int, bytes]], chance: random.Random
) -> dict[str, bytes]:
    """Return the files as they may lie on the disk after all of `log`."""
    files: defaultdict[str, bytearray] = defaultdict(bytearray)
    unsynced: defaultdict[str, list[tuple[str, int, bytes]]] = defaultdict(list)
    for what, name, at, data in log:
        if what == "sync":
            for one in unsynced.pop(name, []):
                change(files[name], *one)
        elif what in ("write", "truncate"):
            unsynced[name].append((what, at, data))
    for name, changes in unsynced.items():
        kept = chance.random()
        for what, at, data in changes:
            if chance.random() < kept:
                torn = chance.randrange(0, len(data) + 1, SECTOR) if chance.random() < 0.3 else None
                change(files[name], what, at, data[:torn])
    return {name: bytes(content) for name, content in files.items()}


def worked(broker: SqliteBroker, disk: Disk, rounds: int) -> None:
    """Publish, claim and settle, and note in between what the broker has confirmed."""

    def said(what: str, ids: list[bytes]) -> None:
        disk.log += [(what, "", 0, id) for id in ids]

    for number in range(rounds):
        for batch in (messages(1), messages(20)):
            assert broker.publish(batch) == [STORED] * len(batch)
            said("stored", [message.id for message in batch])
        leases = broker.claim(["photos"], 15).leases
        said("ending", [lease.message.id for lease in leases])
        ends = [
            Settlement(lease, Nack(0, ERROR) if n % 5 == 0 else Ack())
            for n, lease in enumerate(leases)
        ]
        assert broker.settle(ends) == [APPLIED] * len(ends)
        said("ended", [end.lease.message.id for end in ends if isinstance(end.outcome, Ack)])
        said("back", [end.lease.message.id for end in ends if not isinstance(end.outcome, Ack)])
        if number % 4 == 3:
            broker._db.connection.pragma("wal_checkpoint(RESTART)")


def told(log: list[tuple[str, str, int, bytes]]) -> dict[bytes, str]:
    """Return what was last said of each message."""
    return {id: said for said, name, _, id in log if not name}


@pytest.mark.parametrize("seed", range(3))
def test_rule_04_a_loss_of_power_loses_nothing_confirmed_and_brings_nothing_back(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with noting() as disk:
        broker = open_here(tmp_path / "q.db")
        worked(broker, disk, 12)
        broker.close()
    first = next(at for at, (what, *_) in enumerate(disk.log) if what == "stored")
    for number in range(LOSSES):
        log = disk.log[: chance.randrange(first, len(disk.log))]
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in left_by_a_loss(log, chance).items():
            (folder / name).write_bytes(content)
        broker = open_here(folder / "q.db")
        assert broker._db.connection.pragma("integrity_check") == "ok"
        broker._run("another_boot", boot="later")
        left = taken_by(broker)
        broker.close()
        assert len(left) == len(set(left))
        for id, said in told(log).items():
            if said != "ending":  # that may have got through or not
                assert (id in left) == (said != "ended"), said
