"""A RabbitMQ server for the tests of this folder, and brokers on it."""

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from dibs.brokers.rabbitmq import RabbitBroker
from dibs.clock import SystemClock
from dibs.wires.amqp import post
from dibs.wires.amqp.address import address_of
from tests.servers.missing import not_installed
from tests.servers.rabbitmq import Server, programs, serving

RUNGS_MS = (20, 100)
Open = Callable[[], RabbitBroker]

_prefixes = count()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all; whoever breaks it mends it."""
    binaries = programs()
    if binaries is None:
        not_installed("RabbitMQ", "rabbitmq-server")
    with serving(binaries) as running:
        yield running


@pytest.fixture(autouse=True)
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the wait for what the server writes down: whoever kills it brings that back."""
    monkeypatch.setattr(post, "WRITTEN_SECONDS", 0.0)


@pytest.fixture
def url(server: Server) -> str:
    """A place of the test's own."""
    return f"{server.url()}?prefix=u{os.getpid()}-{next(_prefixes)}"


@pytest.fixture
def open_one(url: str) -> Iterator[Open]:
    """A way to open brokers there, which are closed after the test."""
    opened: list[RabbitBroker] = []

    def one() -> RabbitBroker:
        where = address_of(url)
        broker = RabbitBroker(
            where, clock=SystemClock(), worker_id=os.urandom(16), rungs_ms=RUNGS_MS
        )
        opened.append(broker)
        return broker

    yield one
    for broker in opened:
        broker.close()
