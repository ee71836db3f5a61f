"""Whose lease it is, what is in whose way, and what is left behind: the queue file alone."""

import os
from pathlib import Path

import dibs.brokers
from dibs.brokers.contract import Applied, Stale
from dibs.brokers.sqlite import SqliteBroker
from dibs.message import Ack
from dibs.testing import ManualClock
from dibs.testing.making import (
    VISIBILITY_MS,
    claim,
    claim_one,
    message,
    messages,
    publish,
    settle,
)
from tests.regressions.seeding import finds
from tests.residue import leaves_nothing


def opened(path: Path, clock: ManualClock, worker_id: bytes) -> SqliteBroker:
    return SqliteBroker(path, worker_id=worker_id, clock=clock)


@finds("waits_for_the_owner", "not enough values to unpack")
def test_b37_a_holder_that_comes_back_under_its_old_name_does_not_keep_its_old_leases(
    path: Path, clock: ManualClock
) -> None:
    """procrastinate 1518, oban 862: a pod of the same name came up, and orphans stayed orphans."""
    before = opened(path, clock, b"pod-1")
    publish(before, message())
    before.bell()
    lost = claim_one(before)
    after = opened(path, clock, b"pod-1")
    after.bell()
    clock.advance(VISIBILITY_MS)
    again = claim_one(after)
    assert (again.fence, again.lost) == (2, 1)
    assert settle(before, lost, Ack()) == Stale()
    assert settle(after, again, Ack()) == Applied()
    before.close()
    after.close()


@finds("rescues_its_own_queues_only", "not enough values to unpack")
def test_b41_twenty_thousand_orphans_of_another_queue_are_in_nobodys_way(
    path: Path, clock: ManualClock
) -> None:
    """river 1318: a page full of jobs that could not be rescued hid all that came after it."""
    broker = opened(path, clock, b"one")
    publish(broker, *messages(20_000, "nobodys"))
    while claim(broker, "nobodys", limit=5_000):
        pass
    (ours,) = publish(broker, message("ours"))
    claim_one(broker, "ours")
    clock.advance(VISIBILITY_MS)
    (again,) = (lease for _ in range(6) for lease in claim(broker, "ours"))
    assert again.message.id == ours.id
    broker.close()


@finds("leaves_descriptors_behind", "descriptors are left")
def test_b12_opening_and_closing_again_and_again_leaves_nothing_behind(
    path: Path, clock: ManualClock
) -> None:
    """celery 10277: each reconnect left objects behind, a hundred thousand in a few days."""

    def once() -> None:
        broker = opened(path, clock, os.urandom(8))
        broker.bell()
        publish(broker, message())
        settle(broker, claim_one(broker), Ack())
        broker.close()

    leaves_nothing(once)
    assert os.listdir(path.with_name(path.name + "-bells")) == []


def without_suite(brokers: Path, suites: Path) -> set[str]:
    """Return the brokers that no test holds to the conformance suite."""
    tested = {path.stem.removeprefix("test_") for path in suites.glob("test_*.py")}
    return {path.parent.name for path in brokers.glob("*/__init__.py")} - tested


def test_b29_every_broker_is_held_to_the_conformance_suite(tmp_path: Path) -> None:
    """taskiq-redis 130: the variant for clusters never read what was pending; nothing tested it."""
    suites = Path(__file__).parents[1] / "conformance"
    assert without_suite(Path(*dibs.brokers.__path__), suites) == set()
    tmp_path.joinpath("cluster").mkdir()
    tmp_path.joinpath("cluster", "__init__.py").touch()
    assert without_suite(tmp_path, suites) == {"cluster"}, "or it would not see one without"
