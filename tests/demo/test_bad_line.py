"""The line of the demo's workers: what it loses, what it says of it, and what it lets pass."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dibs.brokers.contract import Applied, Stale, Stored
from dibs.cli.demo.record import Record
from dibs.cli.demo.worker import BadLine
from dibs.message import Ack, Lease, Message, Release, Settlement


@pytest.fixture
def line(tmp_path: Path) -> Iterator[BadLine]:
    """A line that loses every second ack, and a queue of four jobs behind it."""
    with closing(BadLine(tmp_path / "queue.db", loses=2)) as line:
        line.declare(["demo"])
        jobs = [Message(bytes([n] * 16), "demo", "charge", b"{}") for n in range(4)]
        assert line.publish(jobs) == [Stored()] * 4
        yield line


def claimed(line: BadLine) -> list[Lease]:
    return line.claim(["demo"], 10).leases


def acked(leases: list[Lease]) -> list[Settlement]:
    return [Settlement(lease, Ack()) for lease in leases]


def in_flight(line: BadLine) -> int | None:
    [counts] = line.inspector().queues()
    return counts.in_flight


def test_a_lost_ack_is_answered_and_never_arrives(line: BadLine, tmp_path: Path) -> None:
    assert line.settle(acked(claimed(line))) == [Applied()] * 4
    assert in_flight(line) == 2
    record = Record(tmp_path).read()
    assert set(record.acks_lost.values()) == {1}
    assert (record.acks_lost.total(), record.acks_refused.total()) == (2, 0)


def test_only_acks_of_a_first_delivery_are_lost(line: BadLine) -> None:
    back = [Settlement(lease, Release()) for lease in claimed(line)]
    assert line.settle(back) == [Applied()] * 4
    again = claimed(line)
    assert [lease.fence for lease in again] == [2] * 4
    assert line.settle(acked(again)) == [Applied()] * 4
    assert in_flight(line) == 0


def test_a_refused_ack_is_written_down_and_answered_as_it_is(tmp_path: Path) -> None:
    with closing(BadLine(tmp_path / "queue.db", loses=0)) as line:
        line.publish([Message(bytes(16), "demo", "charge", b"{}")])
        old = claimed(line)
        line.settle([Settlement(lease, Release()) for lease in old])
        claimed(line)
        assert line.settle(acked(old)) == [Stale()]
        assert line.settle([Settlement(lease, Release()) for lease in old]) == [Stale()]
    record = Record(tmp_path).read()
    assert (record.acks_lost.total(), record.acks_refused.total()) == (0, 1)
