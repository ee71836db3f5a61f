"""The memory broker keeps the contract."""

import os
import select
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from dibs.brokers.contract import Broker
from dibs.brokers.memory import open_memory
from dibs.clock import Clock
from dibs.testing import BrokerConformance, Harness, ManualClock
from dibs.testing.machine import BrokerMachine
from dibs.testing.making import claim, ids, messages, publish


def open_at(name: str, clock: Clock) -> Broker:
    return open_memory(name, clock=clock, worker_id=os.urandom(16))


class TestMemoryBroker(BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        return Harness(partial(open_at, str(folder)))


class MemoryMachine(BrokerMachine):
    """The reference beside itself: what fails here is a fault of the machine."""

    def make_harness(self, folder: Path) -> Harness:
        return Harness(partial(open_at, str(folder)))


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings()


def test_a_name_is_a_store(tmp_path: Path) -> None:
    clock = ManualClock()
    first = open_at(str(tmp_path), clock)
    second = open_at(f"{tmp_path}-other", clock)
    first.declare(["photos"])
    assert [queue.name for queue in first.inspector().queues()] == ["photos"]
    assert second.inspector().queues() == []


@pytest.mark.parametrize("name", ["", "a/b", "é"])
def test_its_url_names_the_store(name: str) -> None:
    assert open_at(name, ManualClock()).url == f"memory://{name}"


def test_a_producers_thread_and_a_pumps_thread_share_a_store(tmp_path: Path) -> None:
    """Each with its own Broker object; the one is woken by the other's bell."""
    clock = ManualClock()
    published = [messages(20) for _ in range(30)]

    def produce() -> None:
        broker = open_at(str(tmp_path), clock)
        for batch in published:
            publish(broker, *batch)

    pump = open_at(str(tmp_path), clock)
    producer = threading.Thread(target=produce)
    pump.bell()
    claimed = claim(pump, limit=7)
    producer.start()
    while len(claimed) < 600:
        granted = claim(pump, limit=7)
        claimed += granted
        if not granted:
            assert select.select([pump.bell()], [], [], 30)[0]
    producer.join()
    pump.close()
    assert ids(claimed) == [one.id for batch in published for one in batch]
