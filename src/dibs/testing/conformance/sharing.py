"""Cases with a second process: rules 1, 8, 23 and 24 of the contract.

Owns: the process that is killed while it holds leases. Where a broker says that processes cannot
share it, the same must hold between two Broker objects of this one.
Must never: run anything but spawned interpreters; a fork would share what must not be shared.
Called by: pytest, through `BrokerConformance`.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Applied, Broker, Stale
from dibs.message import Ack
from dibs.testing.clock import ManualClock
from dibs.testing.conformance.cases import Cases
from dibs.testing.conformance.waiting import rung, waiter
from dibs.testing.harness import Harness, MakeBroker
from dibs.testing.making import VISIBILITY_MS, claim_all, ids, message, messages, publish, settle

PATIENCE_SECONDS = 30


def in_another_process(make_broker: MakeBroker, clock: ManualClock, pipe: Connection) -> None:
    """Do as the pipe says until somebody kills us."""
    broker = make_broker(clock)
    while True:
        pipe.send(done(broker, *pipe.recv()))


def done(broker: Broker, verb: str, what: Any) -> Any:
    """Do what was asked, and return the answer."""
    return broker.publish(what) if verb == "publish" else broker.claim(["photos"], what).leases


class Here:
    """One more Broker object in this process, which is forgotten instead of killed."""

    def __init__(self, harness: Harness) -> None:
        self._broker = harness.open()

    def ask(self, verb: str, what: Any) -> Any:
        """Return what the other object answers."""
        return done(self._broker, verb, what)


class Elsewhere:
    """A broker in a process of its own, at the moment of the harness's clock."""

    def __init__(self, harness: Harness) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (harness.make_broker, harness.clock, theirs)
        self._process = context.Process(target=in_another_process, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, verb: str, what: Any) -> Any:
        """Return what the other process answers."""
        self._pipe.send((verb, what))
        assert self._pipe.poll(PATIENCE_SECONDS), "the other process does not answer"
        return self._pipe.recv()

    def kill(self) -> None:
        """End it in the middle of whatever it does, as the kernel would."""
        self._process.kill()
        self._process.join(PATIENCE_SECONDS)
        self._pipe.close()


@contextmanager
def elsewhere(harness: Harness, capabilities: Capabilities) -> Iterator[Elsewhere | Here]:
    """Have another process for a while, or where none can be, another Broker object."""
    if not capabilities.shared_between_processes:
        yield Here(harness)
        return
    process = Elsewhere(harness)
    try:
        yield process
    finally:
        process.kill()


class Sharing(Cases):
    """What holds between all who share the broker: processes, where they can."""

    def test_rule_23_the_leases_of_a_killed_process_return_at_their_expiry(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Not before, and all of them; what it had published stays."""
        publish(broker, *messages(5))
        with elsewhere(harness, capabilities) as other:
            other.ask("publish", messages(1))
            held = other.ask("claim", 4)
        assert len(held) == 4
        if not capabilities.leases_outlive:  # they are back at once, as lost
            harness.let_pass(0)
            assert sorted(lease.lost for lease in claim_all(broker)) == [0, 0, 1, 1, 1, 1]
            return
        rest = claim_all(broker)
        assert len(rest) == 2
        for lease in rest:
            settle(broker, lease, Ack())
        harness.let_pass(VISIBILITY_MS - harness.tick_ms)
        assert claim_all(broker) == []
        harness.let_pass(harness.tick_ms)
        assert [lease.lost for lease in claim_all(broker)] == [1] * 4

    def test_rule_24_another_process_rings_the_bell(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """And is rung by ours."""
        waiting = waiter(harness)
        new = message()
        with elsewhere(harness, capabilities) as other:
            other.ask("publish", [new])
            assert rung(waiting, within=PATIENCE_SECONDS) == [waiting]
        found = claim_all(waiting if capabilities.takes_ahead else broker)
        assert ids(found) == [new.id]

    def test_rule_08_two_processes_never_hold_the_same(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """What one was granted, the other cannot claim; a lease is good in either's hands."""
        published = publish(broker, *messages(10))
        with elsewhere(harness, capabilities) as other:
            theirs = other.ask("claim", 5)
            ours = claim_all(broker)
            assert sorted(ids(ours) + ids(theirs)) == sorted(ids(published))
            if not capabilities.leases_outlive:
                assert {settle(broker, lease, Ack()) for lease in theirs} == {Stale()}
                assert claim_all(broker) == []
                theirs = []
        assert {settle(broker, lease, Ack()) for lease in ours + theirs} == {Applied()}
