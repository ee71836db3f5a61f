"""A commit that breaks off: what each caller is told, and that it can be asked again.

The log cannot be made durable, as on a disk that fails: until it recovers, nothing is done, but a
power loss in that moment may leave it done. So nobody may say that it is not.
"""

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from dibs.brokers.contract import Applied, Held, Stored, Unknown
from dibs.brokers.sqlite import open_sqlite
from dibs.errors import BrokerError, BrokerUnavailable, PublishUnknown
from dibs.message import Ack, Nack, Outcome, Settlement
from dibs.testing import ManualClock
from dibs.testing.making import ERROR, claim, claim_all, claim_one, ids, message, messages, publish
from tests.unit.sqlite.conftest import Open


class BrokenDisk(apsw.VFS):
    """A disk that cannot sync while it is `broken`."""

    broken = False

    def __init__(self) -> None:
        super().__init__("broken-disk", "")

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return BrokenDiskFile(self, name, flags)


class BrokenDiskFile(apsw.VFSFile):
    def __init__(self, disk: BrokenDisk, name: object, flags: list[int]) -> None:
        self.disk = disk
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self.disk.broken:
            raise apsw.IOError("cannot sync")
        super().xSync(flags)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> BrokenDisk:
    disk, connect = BrokenDisk(), apsw.Connection

    def on_it(name: str, flags: int) -> apsw.Connection:
        return connect(name, flags=flags, vfs="broken-disk")

    monkeypatch.setattr(apsw, "Connection", on_it)
    return disk


def while_broken(disk: BrokenDisk, call: Callable[[], object]) -> BrokerError:
    """Return what is raised while the disk is broken."""
    disk.broken = True
    with pytest.raises(BrokerError, match=r"photos\.db: the commit broke off: .*: check the disk"):
        call()
    with pytest.raises(BrokerError) as caught:
        call()
    disk.broken = False
    assert isinstance(caught.value.__cause__, apsw.IOError)
    return caught.value


def test_a_publish_may_or_may_not_be_stored(disk: BrokenDisk, open_broker: Open) -> None:
    broker = open_broker()
    new = messages(3)
    assert type(while_broken(disk, lambda: broker.publish(new))) is PublishUnknown
    assert broker.publish(new) == [Stored()] * 3, "also into a queue that nobody knows of yet"
    assert ids(claim_all(broker)) == ids(new)


def test_a_claim_is_a_broker_that_cannot_be_used(disk: BrokenDisk, open_broker: Open) -> None:
    broker = open_broker()
    published = publish(broker, *messages(3))
    assert type(while_broken(disk, lambda: claim(broker, limit=3))) is BrokerUnavailable
    leases = claim(broker, limit=3)
    assert ids(leases) == ids(published)
    assert {(lease.fence, lease.lost) for lease in leases} == {(1, 0)}


def test_a_declaration_is_a_broker_that_cannot_be_used(disk: BrokenDisk, open_broker: Open) -> None:
    broker = open_broker()
    assert type(while_broken(disk, lambda: broker.declare(["new"]))) is BrokerUnavailable
    broker.declare(["new"])
    assert [queue.name for queue in broker.inspector().queues()] == ["new"]


@pytest.mark.parametrize("outcome", [Ack(), Ack(b"1", 60_000), Nack(0, ERROR)])
def test_a_settlement_is_unknown_and_may_be_sent_again(
    disk: BrokenDisk, open_broker: Open, outcome: Outcome
) -> None:
    broker = open_broker()
    publish(broker, *messages(2))
    ends = [Settlement(lease, outcome) for lease in claim(broker, limit=2)]
    disk.broken = True
    assert broker.settle(ends) == [Unknown()] * 2
    disk.broken = False
    assert broker.settle(ends) == [Applied()] * 2


def test_an_extension_is_unknown_and_may_be_asked_for_again(
    disk: BrokenDisk, open_broker: Open, clock: ManualClock
) -> None:
    broker = open_broker()
    publish(broker, message())
    lease = claim_one(broker)
    clock.advance(1_000)
    disk.broken = True
    assert broker.extend([lease]) == [Unknown()]
    disk.broken = False
    assert broker.extend([lease]) == [Held(30.0)]


def test_a_new_file_is_a_broker_that_cannot_be_used(disk: BrokenDisk, path: Path) -> None:
    def open_one() -> None:
        open_sqlite(path, clock=ManualClock(), worker_id=b"w").close()

    disk.broken = True
    with pytest.raises(BrokerUnavailable, match=r"photos\.db: .*: check the disk"):
        open_one()
    disk.broken = False
    open_one()
