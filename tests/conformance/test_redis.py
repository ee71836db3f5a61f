"""The Redis broker keeps the contract, on a real server whose time a test moves."""

import os
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

from dibs.brokers.contract import Broker
from dibs.brokers.redis import RedisBroker
from dibs.clock import Clock
from dibs.testing import BrokerConformance, Harness
from dibs.testing.machine import BrokerMachine
from dibs.wires.resp.address import address_of
from tests.servers.missing import not_installed
from tests.servers.redis import RedisServer, program, serving

CLOCK = "local function read_clock() return tonumber(redis.call('GET', KEYS[1] .. 'clock')) end"
"""What the scripts read in place of the server's clock."""

_numbers = count()
_servers: list[RedisServer] = []


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """A Redis server; where there is none to start, the test says so."""
    if program() is None:
        not_installed("Redis", "redis-server")
    with serving() as running:
        _servers.append(running)
        yield
        _servers.clear()


def open_at(url: str, prefix: str, clock: Clock) -> Broker:
    address, _ = address_of(url, {})
    return RedisBroker(address, prefix, clock=clock, worker_id=os.urandom(16), now=CLOCK)


class RedisHarness(Harness):
    """A namespace of its own."""

    wall_steps = False

    def __init__(self) -> None:
        (running,) = _servers
        prefix = f"test{next(_numbers)}"
        super().__init__(partial(open_at, running.url(), prefix))
        self._client = running.client()
        self._key = f"{prefix}:clock"
        self._client.set(self._key, self.clock.wall_ms())

    def let_pass(self, ms: int) -> None:
        """Move the clock that the scripts read, and the reference's."""
        self._client.incrby(self._key, ms)
        super().let_pass(ms)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        self._client.close()


class TestRedisBroker(BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return RedisHarness()


class RedisMachine(BrokerMachine):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return RedisHarness()


TestRedisMachine = RedisMachine.TestCase
TestRedisMachine.settings = settings()
