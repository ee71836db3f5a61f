"""A queue file with bytes that nobody wrote, or without its end."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dibs.brokers.sqlite import SqliteBroker
from dibs.brokers.sqlite.inspector import LISTINGS
from dibs.errors import BrokerDamaged, BrokerRefused
from dibs.message import DeadLetter, Error, Lease, Nack, Settlement
from dibs.testing import ManualClock
from dibs.testing.making import claim, message, messages, publish, settle
from tests.unit.sqlite.conftest import Open

PAGE = 4096
ERROR = Error("ValueError", "no", "")


@pytest.fixture
def leases(open_broker: Open) -> list[Lease]:
    """Fill the queue file with jobs of every state, and close it."""
    broker = open_broker()
    publish(broker, *(message(headers={"place": f"{n}"}) for n in range(200)), *messages(200))
    leases = claim(broker, limit=90)
    for lease in leases[:60]:
        dead = lease in leases[:40]
        settle(broker, lease, DeadLetter("max_attempts", ERROR) if dead else Nack(5_000, ERROR))
    broker.close()
    return leases


def use(path: Path, leases: list[Lease]) -> str:
    """Open the file and do all that one does with it; return what its damage was called."""
    try:
        broker = SqliteBroker(path, worker_id=b"w", clock=ManualClock())
    except BrokerDamaged as error:
        return str(error)
    uses: list[Callable[[], object]] = [
        broker.inspector().queues,
        *(lambda state=state: broker.inspector().jobs(None, state) for state in LISTINGS),
        lambda: broker.results([lease.message.id for lease in leases]),
        lambda: broker.settle([Settlement(lease, Nack(0, ERROR)) for lease in leases[60:]]),
        lambda: broker.publish([message()]),
        lambda: [*iter(lambda: broker.claim(["photos"], 50).leases, [])],
    ]
    said = ""
    for one in uses:
        try:
            one()
        except BrokerDamaged as error:
            said = str(error)
    broker.close()
    return said


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_damaged_is_said_with_the_file_and_the_way_out(
    path: Path, leases: list[Lease], seed: int
) -> None:
    content, chosen = bytearray(path.read_bytes()), random.Random(seed)
    step = chosen.choice([37, 101, 503])
    for place in range(PAGE + chosen.randrange(step), len(content), step):
        content[place] ^= 0xFF
    path.write_bytes(content)
    assert_is_damage(use(path, leases), path)


@pytest.mark.parametrize("pages", [1, 2, 20])
def test_a_file_that_lost_its_end_is_damaged(path: Path, leases: list[Lease], pages: int) -> None:
    path.write_bytes(path.read_bytes()[: pages * PAGE])
    assert_is_damage(use(path, leases), path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE message SET headers = '{\"place\": ' WHERE headers IS NOT NULL",
        "UPDATE message SET task = CAST(x'ff' AS TEXT)",
        "UPDATE dead SET error = '7'",
    ],
)
def test_what_is_no_value_of_ours_is_damage(
    open_broker: Open, path: Path, leases: list[Lease], change: str
) -> None:
    broker = open_broker()
    broker._db.connection.execute(change)
    said = use(path, leases)
    assert_is_damage(said, path)
    assert "a value in it cannot be read" in said


def test_a_damaged_beginning_is_no_queue_file(path: Path, leases: list[Lease]) -> None:
    path.write_bytes(b"?" * 100 + path.read_bytes()[100:])
    with pytest.raises(BrokerRefused, match="not a queue file, or its beginning is damaged"):
        use(path, leases)


def assert_is_damage(said: str, path: Path) -> None:
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith(
        "): restore a backup, or save what can be read: docs/operations.md, A damaged file"
    )
