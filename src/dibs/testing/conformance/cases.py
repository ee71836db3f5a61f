"""What every group of cases stands on.

Owns: the fixtures, the one method that a broker's author writes, and what a broker must answer
when it is asked for what its capabilities say that it cannot do.
Must never: hold a case.
Called by: the groups of cases beside this file.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import (
    Applied,
    Broker,
    Duplicate,
    Gone,
    Published,
    Refused,
    Settled,
    Stale,
    Stored,
)
from dibs.errors import OptionError
from dibs.message import DeadMessage, JobView, Message, Result
from dibs.states import State
from dibs.testing.clock import ClockFault
from dibs.testing.harness import Harness
from dibs.testing.making import claim_all

MOST_READINGS = 20


def assert_refused(broker: Broker, new: Message, word: str) -> None:
    """Publish what must be refused: the reason says `word`, and nothing is stored."""
    (answer,) = broker.publish([new])
    assert isinstance(answer, Refused)
    assert word in answer.why
    assert claim_all(broker, new.queue) == []


def dead_letters(
    broker: Broker, queue: str | None = None, limit: int = 100
) -> list[DeadMessage] | None:
    """Return the dead letters; None if the broker cannot browse and, as it must, says so."""
    if broker.capabilities.browsing:
        return broker.inspector().dead(queue, limit)
    with pytest.raises(OptionError, match="this broker cannot"):
        broker.inspector().dead(queue, limit)
    return None


def browses(broker: Broker) -> bool:
    """Say whether the broker shows and moves single jobs; one that cannot must refuse each way."""
    if broker.capabilities.browsing:
        return True
    inspector = broker.inspector()
    ways: list[Callable[[], object]] = [
        partial(inspector.jobs, None, State.READY),
        partial(inspector.job, bytes(16)),
        partial(inspector.dead),
        partial(inspector.redrive, [bytes(16)]),
        partial(inspector.discard, [bytes(16)]),
    ]
    for way in ways:
        with pytest.raises(OptionError, match="this broker cannot"):
            way()
    return False


def listed(
    broker: Broker, state: State, queue: str | None = None, size: int = 100
) -> list[JobView]:
    """Return all jobs in a state, read in pages of `size`."""
    inspector = broker.inspector()
    page = inspector.jobs(queue, state, size)
    found = list(page.jobs)
    while page.next is not None:
        assert len(page.jobs) == size
        page = inspector.jobs(queue, state, size, page.next)
        found += page.jobs
    return found


def in_order(broker: Broker, found: Sequence[bytes]) -> list[bytes]:
    """Return ids as they came, or sorted if the broker promises no order."""
    return list(found) if broker.capabilities.ordered else sorted(found)


def again(broker: Broker, id: bytes) -> Published:
    """Return what a second publish of `id` must be answered, while the first is there."""
    return Duplicate(id) if broker.capabilities.unique_ids else Stored()


def late(broker: Broker) -> Settled:
    """Return what a settlement of a lease that ran out, and is nobody's, must be answered.

    Where the broker itself cannot refuse a stale one, the lease is over with its time.
    """
    return Applied(late=True) if broker.capabilities.native_fence else Stale()


def no_longer_there(broker: Broker) -> tuple[Settled, ...]:
    """Return what a settlement of a message that is gone may be answered, long after its end."""
    return (Gone(),) if broker.capabilities.native_fence else (Gone(), Stale())


def told(broker: Broker, *ends: Result | None) -> list[Result | None]:
    """Return what `results` must answer: that it cannot tell of any, if the broker cannot."""
    return list(ends) if broker.capabilities.results else [None for _ in ends]


class Cases:
    """A group of conformance cases; `BrokerConformance` is all of them."""

    def make_harness(self, folder: Path) -> Harness:
        """Return a new, empty store; `folder` is an empty folder that it may use."""
        raise NotImplementedError("say how to open your broker: see dibs.testing.Harness")

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[Harness]:
        """Give a store for the length of one test."""
        harness = self.make_harness(tmp_path)
        yield harness
        harness.close()

    @pytest.fixture
    def broker(self, harness: Harness) -> Broker:
        """Give the store's first Broker object."""
        return harness.open()

    @pytest.fixture
    def capabilities(self, broker: Broker) -> Capabilities:
        """Give what the broker says of itself."""
        return broker.capabilities

    def cut_short(
        self, harness: Harness, call: Callable[[], object], check: Callable[[], None]
    ) -> None:
        """Let `call` fail at its first reading of the clock, its second, and so on; then not."""
        for reading in range(1, MOST_READINGS):
            harness.clock.fail_at(reading)
            try:
                call()
            except ClockFault:
                check()
            else:
                harness.clock.fail_at(None)
                return
        raise AssertionError(f"one call reads its clock {MOST_READINGS} times")
