"""A queue file, and brokers on it that are closed when the test is over."""

import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dibs.brokers.sqlite import SqliteBroker
from dibs.testing import ManualClock
from tests.worker.workers import until

Open = Callable[[], SqliteBroker]
T = TypeVar("T")


def is_queued(path: Path) -> bool:
    """Whether somebody holds the turn, so stands first in the queue for the lock."""
    with path.with_name(path.name + "-turn").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def in_line(
    aside: Executor, path: Path, call: Callable[..., T], *values: Any, **named: Any
) -> "Future[T]":
    """Make a call in another thread; return when it waits for the lock."""
    future = aside.submit(call, *values, **named)
    until(lambda: is_queued(path), "it waits for the lock")
    return future


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.db"


@pytest.fixture
def open_broker(path: Path, clock: ManualClock) -> Iterator[Open]:
    opened: list[SqliteBroker] = []

    def open_one() -> SqliteBroker:
        opened.append(SqliteBroker(path, worker_id=os.urandom(8), clock=clock))
        return opened[-1]

    yield open_one
    for broker in opened:
        broker.close()


@pytest.fixture
def broker(open_broker: Open) -> SqliteBroker:
    return open_broker()
