"""A queue file, and brokers on it that are closed when the test is over."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dibs.brokers.sqlite import SqliteBroker
from dibs.testing import ManualClock

Open = Callable[[], SqliteBroker]


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
