"""A server, and brokers on it that are closed after each test."""

from collections.abc import Callable, Iterator

import pytest

from dibs.brokers.sqs import SqsBroker
from dibs.clock import Clock, SystemClock
from dibs.wires.aws.client import Address, client_at
from tests.servers.sqs import KEYS, Server, serving
from tests.servers.sqs_faults import Front, fronting

Open = Callable[..., SqsBroker]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def front(server: Server) -> Iterator[Front]:
    server.set_time(None)
    with fronting(server.port) as started:
        yield started


@pytest.fixture
def open_broker(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open one more broker on a prefix of the test's own."""
    server.set_time(None)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    prefix, opened = server.new_prefix(), []

    def open_one(endpoint: str = server.endpoint, clock: Clock | None = None) -> SqsBroker:
        address = Address("eu-west-1", prefix, endpoint)
        clients = client_at(address, 3.5, 10), client_at(address, 23.5, 10)
        opened.append(SqsBroker(*clients, address, clock or SystemClock()))
        return opened[-1]

    yield open_one
    for broker in opened:
        broker.close()


@pytest.fixture
def broker(open_broker: Open) -> SqsBroker:
    return open_broker()
