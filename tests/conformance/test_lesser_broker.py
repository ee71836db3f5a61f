"""The suite on a broker that can do little: what it cannot do is refused, and nothing is skipped.

Every broker here so far can do everything, so without this one the suite's refusals never run.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from dibs.brokers import checks, contract
from dibs.brokers.memory import MemoryBroker, MemoryStore
from dibs.brokers.memory.inspector import MemoryInspector
from dibs.clock import Clock
from dibs.errors import OptionError
from dibs.message import JobView, Message, QueueCounts, Result
from dibs.states import State
from dibs.testing import BrokerConformance, Harness

WINDOW_SECONDS = 24 * 3_600
LESS = replace(
    MemoryBroker.capabilities,
    batch_limit=10,
    longest_lease_ms=12 * 3_600_000,
    exact_counts=False,
    priorities=False,
    unique_keys=False,
    results=False,
    browsing=False,
    dedupe_window_seconds=WINDOW_SECONDS,
)


class LesserInspector(MemoryInspector):
    """Guesses what is ready, knows nothing of the rest, and cannot look inside."""

    def queues(self) -> list[QueueCounts]:
        return [replace(found, ready=7, in_flight=None, dead=None) for found in super().queues()]

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> contract.Page:
        del queue, state, limit, after
        raise OptionError("this broker cannot show jobs")

    def job(self, id: bytes) -> JobView | None:
        del id
        raise OptionError("this broker cannot show jobs")

    def redrive(self, ids: Sequence[bytes]) -> list[contract.Answered]:
        del ids
        raise OptionError("this broker cannot move single jobs")

    def discard(self, ids: Sequence[bytes]) -> int:
        del ids
        raise OptionError("this broker cannot move single jobs")


class LesserBroker(MemoryBroker):
    """Refuses what it cannot do, and remembers each id for a window."""

    capabilities = LESS

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        if len(messages) > LESS.batch_limit:
            raise OptionError(f"{len(messages):,} messages are over the limit")
        refused = [checks.refusal(message, LESS) for message in messages]
        fit = [m for m, why in zip(messages, refused, strict=True) if why is None]
        old = [contract.Duplicate(m.id) if m.id in self._known else None for m in fit]
        new = [m for m, duplicate in zip(fit, old, strict=True) if duplicate is None]
        stored = iter(super().publish(new))
        self._known.update(message.id for message in new)
        lawful = iter([duplicate or next(stored) for duplicate in old])
        return [next(lawful) if why is None else contract.Refused(why) for why in refused]

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        return super().claim(queues, min(limit, LESS.batch_limit))

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        return [None for _ in ids]

    def inspector(self) -> MemoryInspector:
        return LesserInspector(self._store, self._clock)

    @property
    def _known(self) -> set[bytes]:
        assert isinstance(self._store, Remembering)
        return self._store.known


class Silent(LesserBroker):
    """Takes what it cannot do, forgets that it was asked, and says that nothing is dead."""

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        plain = [replace(m, priority=0, unique_key=None, headers={}) for m in messages]
        return super().publish(plain)

    def inspector(self) -> MemoryInspector:
        return MemoryInspector(self._store, self._clock)


class Remembering(MemoryStore):
    """A store whose window never ends, as far as these tests can see."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.known: set[bytes] = set()


class Unset(Harness):
    """Nobody can set this broker's clock."""

    wall_steps = False


def harness_of(kind: type[LesserBroker]) -> Harness:
    store = Remembering("lesser")
    opened: list[LesserBroker] = []

    def open_one(clock: Clock) -> contract.Broker:
        opened.append(kind(store, clock, os.urandom(16), created=not opened))
        return opened[-1]

    return Unset(open_one)


class TestLesserBroker(BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return harness_of(LesserBroker)


DEGRADED: list[Callable[..., None]] = [
    BrokerConformance.test_by_priority_then_in_publish_order,
    partial(BrokerConformance.test_rule_03_a_message_comes_back_byte_for_byte, name="priority 9"),
    partial(BrokerConformance.test_rule_03_a_message_comes_back_byte_for_byte, name="key 'k'"),
    partial(
        BrokerConformance.test_rule_05_a_unique_key_holds_while_its_message_is_live, when="ready"
    ),
    BrokerConformance.test_rule_05_a_unique_key_is_free_once_its_message_is_gone,
    BrokerConformance.test_rule_05_unique_keys_are_compared_exactly,
    BrokerConformance.test_rule_02_a_key_is_refused_where_no_record_can_be_kept,
    partial(BrokerConformance.test_rule_16_a_dead_letter_keeps_its_bytes, name="every byte"),
    BrokerConformance.test_rule_16_dead_letters_are_listed_newest_first,
]


@pytest.mark.parametrize("case", DEGRADED)
def test_a_broker_that_degrades_in_silence_is_caught(case: Callable[..., None]) -> None:
    harness = harness_of(Silent)
    broker = harness.open()
    given = {"harness": harness, "broker": broker, "capabilities": broker.capabilities}
    wanted = inspect.signature(case).parameters
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        case(TestLesserBroker(), **{name: given[name] for name in wanted if name in given})
    harness.close()
