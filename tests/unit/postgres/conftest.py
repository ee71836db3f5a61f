"""A PostgreSQL server for the tests of its adapter, and queues in it."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from dibs.brokers.contract import Broker
from dibs.brokers.postgres import open_url
from dibs.clock import SystemClock
from tests.servers.missing import not_installed
from tests.servers.postgres import Server, programs, serving

_numbers = count()

Open = Callable[..., Broker]


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The server's programs, for tests that start one of their own."""
    found = programs()
    if found is None:
        not_installed("PostgreSQL", "postgresql")
    return found


@pytest.fixture(scope="module")
def server(binaries: Path) -> Iterator[Server]:
    """A server that the tests of one file may stop."""
    with serving(binaries) as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    """The address of queues that are not there yet."""
    return f"{server.url('postgres')}&schema=unit_{next(_numbers)}"


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Opens the queues, as often as a test likes."""
    brokers: list[Broker] = []

    def another(more: str = "", at: str = url) -> Broker:
        broker = open_url(at + more, clock=SystemClock(), worker_id=os.urandom(16))
        brokers.append(broker)
        return broker

    yield another
    for broker in brokers:
        broker.close()


@pytest.fixture
def sql(url: str) -> Iterator[psycopg.Connection]:
    """A connection that sees the tables of the queues."""
    plain, _, schema = url.partition("&schema=")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"SET search_path = {schema}")
        yield connection
