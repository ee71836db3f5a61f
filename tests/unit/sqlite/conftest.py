"""A queue file, and brokers on it that are closed when the test is over."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dibs.brokers.sqlite import SqliteBroker
from dibs.testing import ManualClock

Open = Callable[[], SqliteBroker]


def is_queued(path: Path) -> bool:
    """Whether somebody holds the turn, so stands first in the queue for the lock."""
    with path.with_name(path.name + "-turn").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


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
