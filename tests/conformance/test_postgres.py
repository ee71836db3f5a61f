"""The PostgreSQL broker keeps the contract, on a real server whose time a test moves."""

import os
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from dibs.brokers.contract import Broker
from dibs.brokers.postgres import open_url
from dibs.clock import Clock
from dibs.testing import BrokerConformance, Harness
from dibs.testing.machine import BrokerMachine
from tests.servers.missing import not_installed
from tests.servers.postgres import Server, programs, serving, stop_the_clock

_numbers = count()
_servers: list[Server] = []


@pytest.fixture(scope="session", autouse=True)
def server() -> Iterator[Server]:
    """A PostgreSQL server; where there is none to start, the test says so."""
    binaries = programs()
    if binaries is None:
        not_installed("PostgreSQL", "postgresql")
    with serving(binaries, "autovacuum=off") as running:
        _servers.append(running)
        yield running
        _servers.clear()


def open_at(url: str, clock: Clock) -> Broker:
    """Open the broker; whoever creates the store gives it a clock that stands still."""
    broker = open_url(url, clock=clock, worker_id=os.urandom(16))
    if broker.created:
        plain, _, schema = url.partition("&schema=")
        with psycopg.connect(plain) as connection:
            stop_the_clock(connection, schema, clock.wall_ms())
    return broker


class PostgresHarness(Harness):
    """A schema of its own."""

    wall_steps = False

    def __init__(self) -> None:
        self._schema = f"test_{next(_numbers)}"
        (running,) = _servers
        self._plain = running.url("postgres")
        super().__init__(partial(open_at, f"{self._plain}&schema={self._schema}"))
        self._connection = psycopg.connect(self._plain, autocommit=True)

    def let_pass(self, ms: int) -> None:
        """Move the server's clock, and the reference's."""
        self._connection.execute(f"UPDATE {self._schema}.test_time SET ms = ms + {ms}")
        super().let_pass(ms)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        self._connection.close()


class TestPostgresBroker(BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return PostgresHarness()


class PostgresMachine(BrokerMachine):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return PostgresHarness()


TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(max_examples=15)
