"""The embedded broker keeps the contract."""

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from dibs.brokers.contract import Applied, Broker
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import Clock
from dibs.local.database import Database
from dibs.message import Ack
from dibs.testing import BrokerConformance, Harness
from dibs.testing.machine import BrokerMachine
from dibs.testing.making import claim, claim_all, ids, messages, publish, settle


def open_at(path: Path, clock: Clock) -> Broker:
    return open_sqlite(path, clock=clock, worker_id=os.urandom(16))


class TestSqliteBroker(BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        return Harness(partial(open_at, folder / "queue.db"))


class AtABusyFile:
    """Database.contended, for who always finds others at the file."""

    def __get__(self, database: object, owner: object) -> bool:
        return True

    def __set__(self, database: object, value: bool) -> None: ...


class TestSqliteBrokerAtABusyFile(TestSqliteBroker):
    """Every single message is left for the first in line, who is mostly its own publisher."""

    @pytest.fixture(autouse=True)
    def busy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Database, "contended", AtABusyFile(), raising=False)


class SqliteMachine(BrokerMachine):
    def make_harness(self, folder: Path) -> Harness:
        return Harness(partial(open_at, folder / "queue.db"))


TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings()


def test_rule_08_a_lease_of_another_boot_has_expired(tmp_path: Path) -> None:
    """The boot clock starts anew, and so its readings say nothing about a lease of before."""
    harness = Harness(partial(open_at, tmp_path / "queue.db"))
    broker = harness.open()
    publish(broker, *messages(3))
    done, *held = claim(broker, limit=3)
    broker.close()
    harness.clock.reboot()
    broker = harness.open()
    assert settle(broker, done, Ack()) == Applied(late=True)
    again = claim_all(broker)
    assert ids(again) == ids(held)
    assert [lease.lost for lease in again] == [1, 1]
    assert claim_all(broker) == []
    harness.close()
