"""Three brokers that are wrong as real queues have been, each otherwise the memory broker.

Owns: the mistakes that the conformance suite must find; `test_wrong_brokers.py` runs it on them.
Must never: be collected by an ordinary test run (it is not named `test_*`): most of it fails.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from dibs.brokers.contract import Applied, Broker, Claim, Extended, Held, Settled
from dibs.brokers.memory import MemoryBroker, MemoryStore
from dibs.clock import Clock
from dibs.message import Ack, DeadLetter, Lease, Nack, Release, Settlement
from dibs.states import Event, State
from dibs.testing import BrokerConformance, Harness


class PopDelete(MemoryBroker):
    """Takes a message out of the store when it is claimed: whoever dies, loses it."""

    def claim(self, queues: Sequence[str], limit: int) -> Claim:
        found = super().claim(queues, limit)
        super().settle([Settlement(lease, Ack()) for lease in found.leases])
        return found

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        for settlement in settlements:
            if isinstance(settlement.outcome, Nack | Release):
                self.publish([settlement.lease.message])
        return [Applied() for _ in settlements]

    def extend(self, leases: Sequence[Lease]) -> list[Extended]:
        return [Held(lease.message.visibility_timeout_ms / 1000) for lease in leases]


class UnfencedAck(MemoryBroker):
    """Acknowledges by id alone: a worker that was stopped ends the run of another."""

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        return [answer for each in settlements for answer in self._settle(each)]

    def _settle(self, settlement: Settlement) -> list[Settled]:
        lease = settlement.lease
        entry = self._store.entries.get(lease.message.id)
        if entry is None or not isinstance(settlement.outcome, Ack):
            return super().settle([settlement])
        if entry.state is State.SCHEDULED:
            entry.move(Event.FALL_DUE)
        entry.overdue = entry.state is State.READY
        current = replace(lease, fence=entry.fence, receipt=entry.number)
        return super().settle([Settlement(current, settlement.outcome)])


class TwoStepDeadLetter(MemoryBroker):
    """Takes a message out of the queue, then writes it down as dead: in between it is nowhere."""

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        return [answer for each in settlements for answer in self._settle(each)]

    def _settle(self, settlement: Settlement) -> list[Settled]:
        if not isinstance(settlement.outcome, DeadLetter):
            return super().settle([settlement])
        lease, outcome = settlement.lease, settlement.outcome
        entry = self._store.entries.get(lease.message.id)
        answers = super().settle([Settlement(lease, Ack())])
        died_ms = self._clock.wall_ms()
        if entry is not None and isinstance(answers[0], Applied):
            entry.state = State.IN_FLIGHT
            entry.move(Event.GIVE_UP, outcome.charge)
            entry.note(outcome, died_ms)
            entry.reason, entry.error, entry.waiting_since_ms = (
                outcome.reason,
                outcome.error,
                died_ms,
            )
            self._store.dead[lease.message.id] = entry
        return answers


class Wrong(BrokerConformance):
    """The suite, on a wrong broker."""

    broker_class: type[MemoryBroker]

    def make_harness(self, folder: Path) -> Harness:
        opened: list[Broker] = []
        return Harness(partial(self._open, MemoryStore(str(folder)), opened))

    def _open(self, store: MemoryStore, opened: list[Broker], clock: Clock) -> Broker:
        broker = self.broker_class(store, clock, os.urandom(16), created=not opened)
        opened.append(broker)
        return broker


class TestPopDelete(Wrong):
    broker_class = PopDelete


class TestUnfencedAck(Wrong):
    broker_class = UnfencedAck


class TestTwoStepDeadLetter(Wrong):
    broker_class = TwoStepDeadLetter
