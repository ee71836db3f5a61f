"""The SQS adapter keeps the contract, as far as SQS lets it: its capabilities say how far.

The server is moto's, whose time stands still but for `let_pass`; `tests/servers/sqs.py` says how it
differs from Amazon's. So what these tests cannot show: that nothing here needs an order, or finds
everything with one receive.
"""

import os
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from dibs.brokers.contract import Broker
from dibs.brokers.sqs import SqsBroker
from dibs.clock import Clock
from dibs.testing import BrokerConformance, Harness
from dibs.testing.machine import BrokerMachine
from dibs.wires.aws.client import Address, client_at
from tests.servers.sqs import KEYS, Server, serving


@cache
def clients(endpoint: str) -> Any:
    """One pair for all that a process opens: making one costs more than most cases."""
    os.environ.update(KEYS)
    address = Address("eu-west-1", "-", endpoint)
    return client_at(address, 3.5, 10), client_at(address, 30, 64)


class Unbroken:
    """A test's clock, whose boot time does not fail: it is read in threads, at every request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.wall_ms = clock.wall_ms
        self.boot_id = clock.boot_id
        self.monotonic = clock.monotonic

    def boot_ms(self) -> int:
        return round(self._clock.monotonic() * 1_000)


def open_at(endpoint: str, prefix: str, clock: Clock) -> Broker:
    address = Address("eu-west-1", prefix, endpoint)
    return SqsBroker(*clients(endpoint), address, Unbroken(clock))


class SqsHarness(Harness):
    """A prefix of its own, on a server whose clock is the test's."""

    tick_ms = 1_000
    wall_steps = False
    great_many = 120
    soon_seconds = 4.0
    pause_seen_ms = 5_000

    def __init__(self, server: Server) -> None:
        super().__init__(partial(open_at, server.endpoint, server.new_prefix()))
        self._server = server
        server.follow(self.clock)

    def let_pass(self, ms: int) -> None:
        super().let_pass(ms)
        self._server.follow(self.clock)


class Served:
    server: Server

    @pytest.fixture(autouse=True, scope="session")
    @classmethod
    def serve(cls) -> Iterator[None]:
        with serving() as Served.server:
            yield


class TestSqsBroker(Served, BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return SqsHarness(self.server)


class SqsMachine(BrokerMachine):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return SqsHarness(Served.server)


class TestSqsMachine(Served, SqsMachine.TestCase):
    settings = settings(
        max_examples=10,
        stateful_step_count=30,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes
    )
