"""Cases of paused queues: rules 12, 24 and 30 of the contract (G13).

Owns: that a paused queue stands still, for as long as it is paused, and alone.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

import pytest

from dibs.brokers.contract import Applied, Broker, Held
from dibs.errors import OptionError
from dibs.message import Ack, Release
from dibs.testing.conformance.cases import Cases, late
from dibs.testing.conformance.counting import assert_counts, counts
from dibs.testing.conformance.waiting import rung, waiter
from dibs.testing.harness import Harness
from dibs.testing.making import (
    VISIBILITY_MS,
    claim,
    claim_all,
    claim_one,
    ids,
    message,
    messages,
    publish,
    settle,
)


class Pausing(Cases):
    """What a pause stops, and what it does not."""

    def test_a_paused_queue_is_not_claimed_from(self, harness: Harness, broker: Broker) -> None:
        """Not what was there, nor what is published, falls due or is given back meanwhile."""
        publish(broker, *messages(2), message(due_ms=harness.clock.wall_ms() + 1_000))
        held = claim_one(broker)
        broker.inspector().pause("photos")
        other = harness.open()
        publish(other, message())
        harness.let_pass(1_000)
        settle(broker, held, Release())
        for one in (broker, other):
            assert claim_all(one) == []
        assert_counts(broker, 4, 0, 0, 0)
        broker.inspector().resume("photos")
        assert len(claim_all(other)) == 4

    def test_what_is_in_flight_goes_on(self, broker: Broker) -> None:
        """Its lease is renewed, and its settlement counts."""
        publish(broker, message())
        held = claim_one(broker)
        broker.inspector().pause("photos")
        assert broker.extend([held]) == [Held(VISIBILITY_MS / 1000)]
        assert settle(broker, held, Ack()) == Applied()

    def test_rule_09_a_pause_takes_no_holders_chance(
        self, harness: Harness, broker: Broker
    ) -> None:
        """A lease that ran out in a paused queue may be settled late, and waits if it is not."""
        publish(broker, *messages(2))
        overdue, lost = claim(broker, limit=2)
        broker.inspector().pause("photos")
        harness.let_pass(VISIBILITY_MS)
        assert claim_all(broker) == []
        assert settle(broker, overdue, Ack()) == late(broker)
        broker.inspector().resume("photos")
        again = claim_all(broker)
        left = [lost] if broker.capabilities.native_fence else [overdue, lost]
        assert sorted(ids(again)) == sorted(ids(left))
        assert {lease.lost for lease in again} == {1}

    def test_a_pause_is_shown_and_outlives_whoever_made_it(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Also when it is made, or ended, twice."""
        publish(broker, message(), message("another"))
        for _ in range(2):
            broker.inspector().pause("photos")
        broker = harness.reopen(broker)
        assert counts(broker).paused
        assert not counts(broker, "another").paused
        assert claim_all(broker) == []
        for _ in range(2):
            broker.inspector().resume("photos")
        broker = harness.reopen(broker)
        assert not counts(broker).paused
        assert len(claim_all(broker)) == 1

    def test_a_queue_may_be_paused_before_its_first_message(self, broker: Broker) -> None:
        """It is known from then on; what never was paused may be resumed."""
        broker.inspector().resume("never-heard-of")
        broker.inspector().pause("photos")
        assert counts(broker).paused
        publish(broker, message())
        assert claim_all(broker) == []

    @pytest.mark.parametrize("name", ["", "a b", "q" * 61, "photos\n", "\ud800"])
    def test_what_cannot_be_a_queue_cannot_be_paused(self, broker: Broker, name: str) -> None:
        """The name is refused, as it is at `declare`."""
        with pytest.raises(OptionError, match="queue name"):
            broker.inspector().pause(name)

    @pytest.mark.parametrize("limit", [1, 3, 10])
    def test_rule_30_a_paused_queue_starves_no_other(self, broker: Broker, limit: int) -> None:
        """However much lies in it, a claim grants the others all that it has room for."""
        publish(broker, *messages(9, "paused"), *messages(4, "a"), *messages(4, "b"))
        broker.inspector().pause("paused")
        granted = []
        while leases := claim(broker, "paused", "a", "b", limit=limit):
            granted += leases
        assert {lease.message.queue for lease in granted} == {"a", "b"}
        assert len(granted) == 8
        assert broker.claim(["paused", "a", "b"], limit).next_in != 0

    def test_rule_30_a_ring_for_a_paused_queue_uses_up_no_other(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Whoever is woken in vain waits again, and is woken for the rest."""
        broker.inspector().pause("paused")
        waiting = waiter(harness, "paused", "photos")
        publish(broker, message("paused"))
        if rung(waiting, within=0):
            assert claim(waiting, "paused", "photos", limit=10) == []
        publish(broker, message())
        assert rung(waiting) == [waiting]
        assert len(claim(waiting, "paused", "photos", limit=10)) == 1

    def test_rule_24_a_resume_rings(self, harness: Harness, broker: Broker) -> None:
        """What has waited is found at once."""
        publish(broker, message())
        broker.inspector().pause("photos")
        waiting = waiter(harness)
        broker.inspector().resume("photos")
        assert rung(waiting, within=harness.soon_seconds) == [waiting]
        assert len(claim(waiting, limit=10)) == 1
