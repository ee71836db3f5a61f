"""A Redis server for this folder, and brokers on it that are closed when the test is over."""

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from dibs.brokers.redis import RedisBroker, open_url
from dibs.clock import SystemClock
from tests.servers.missing import not_installed
from tests.servers.redis import RedisServer, program, serving

Open = Callable[..., RedisBroker]
_numbers = count()


@pytest.fixture(scope="session")
def running() -> Iterator[RedisServer]:
    """One server for all tests that leave it as it was."""
    if program() is None:
        not_installed("Redis", "redis-server")
    with serving() as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server for one test, which may stop it or set it otherwise."""
    if program() is None:
        not_installed("Redis", "redis-server")
    with serving() as server:
        yield server


@pytest.fixture
def opener() -> Iterator[Open]:
    """Opens brokers on a server, by default in one namespace of this test."""
    opened: list[RedisBroker] = []
    prefix = f"unit{next(_numbers)}"

    def open_one(url: str) -> RedisBroker:
        separator = "&" if "?" in url else "?"
        with_prefix = url if "prefix=" in url else f"{url}{separator}prefix={prefix}"
        broker = open_url(with_prefix, clock=SystemClock(), worker_id=os.urandom(16))
        assert isinstance(broker, RedisBroker)
        opened.append(broker)
        return broker

    yield open_one
    for broker in opened:
        broker.close()
