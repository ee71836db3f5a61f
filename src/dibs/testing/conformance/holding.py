"""Cases of leases: rules 9, 10, 11 and 13 of the contract (G4, G5, G10).

Owns: what a lease allows, and what it no longer allows.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

import pytest
from msgspec.structs import replace

from dibs.acked import Acked
from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Applied, Broker, Duplicate, Gone, Held, Lost, Stale
from dibs.message import Ack, Lease, Nack, Outcome, Release, Settlement
from dibs.testing.conformance.cases import Cases, in_order, late, no_longer_there
from dibs.testing.harness import Harness
from dibs.testing.making import (
    ERROR,
    OUTCOMES,
    VISIBILITY_MS,
    claim,
    claim_all,
    claim_one,
    counters,
    ids,
    message,
    messages,
    publish,
    settle,
)

WAYS_TO_LOSE = ["ran out", "nack", "release"]
HELD = Held(VISIBILITY_MS / 1000)


def lose(harness: Harness, broker: Broker, way: str) -> Lease:
    """Return a lease that was current and is not: its message is ready, or held by nobody."""
    publish(broker, message())
    old = claim_one(broker)
    if way == "ran out":
        harness.let_pass(VISIBILITY_MS)
    else:
        settle(broker, old, OUTCOMES[way])
    return old


class Holding(Cases):
    """What the holder of a lease may do, and whoever held it before may not."""

    @pytest.mark.parametrize("way", WAYS_TO_LOSE)
    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_rule_09_a_settlement_with_an_old_fence_changes_nothing(
        self, harness: Harness, broker: Broker, way: str, outcome: str
    ) -> None:
        """It answers `Stale`, and the new holder does not notice."""
        old = lose(harness, broker, way)
        new = claim_one(broker)
        assert settle(broker, old, OUTCOMES[outcome]) == Stale()
        assert broker.extend([new]) == [HELD]
        assert settle(broker, new, Release()) == Applied()
        assert counters(claim_one(broker)) == counters(new)

    @pytest.mark.parametrize("way", WAYS_TO_LOSE)
    def test_rule_09_an_extension_with_an_old_fence_changes_nothing(
        self, harness: Harness, broker: Broker, way: str
    ) -> None:
        """It answers `Lost`, and the new lease ends when it would have ended."""
        old = lose(harness, broker, way)
        new = claim_one(broker)
        harness.let_pass(VISIBILITY_MS - harness.tick_ms)
        assert broker.extend([old]) == [Lost()]
        harness.let_pass(harness.tick_ms)
        assert ids(claim_all(broker)) == ids([new])

    @pytest.mark.parametrize("way", ["nack", "release"])
    @pytest.mark.parametrize("delay_ms", [0, 60_000])
    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_rule_09_a_lease_that_was_given_back_is_nobodys(
        self, broker: Broker, way: str, delay_ms: int, outcome: str
    ) -> None:
        """Its fence is still the last one, but the one settlement that it allows is made."""
        publish(broker, message())
        old = claim_one(broker)
        given = Release(delay_ms) if way == "release" else Nack(delay_ms, ERROR)
        settle(broker, old, given)
        assert settle(broker, old, OUTCOMES[outcome]) == Stale()
        assert broker.extend([old]) == [Lost()]
        assert len(claim_all(broker)) == (0 if delay_ms else 1)

    @pytest.mark.parametrize("change", [-1, 1, 1_000])
    def test_rule_09_a_fence_that_was_never_granted_holds_nothing(
        self, broker: Broker, change: int
    ) -> None:
        """Only the very fence counts, not a higher one either."""
        publish(broker, message())
        lease = claim_one(broker)
        forged = replace(lease, fence=lease.fence + change)
        assert settle(broker, forged, Ack()) == Stale()
        assert broker.extend([forged]) == [Lost()]
        assert settle(broker, lease, Ack()) == Applied()

    @pytest.mark.parametrize("way", WAYS_TO_LOSE)
    def test_rule_09_the_fence_grows_by_one_at_every_claim(
        self, harness: Harness, broker: Broker, way: str
    ) -> None:
        """However the message came back, and across reopening."""
        fences = [lose(harness, broker, way).fence]
        for _ in range(3):
            lease = claim_one(broker)
            fences.append(lease.fence)
            if way == "ran out":
                harness.let_pass(VISIBILITY_MS)
            else:
                settle(broker, lease, OUTCOMES[way])
            broker = harness.reopen(broker)
        assert fences == [fences[0], fences[0] + 1, fences[0] + 2, fences[0] + 3]

    def test_rule_09_an_old_lease_does_not_hold_a_later_message_of_its_id(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """An id that is published anew once its message is gone names another message.

        Within a window it cannot be: then there is none for the old lease to hold.
        """
        (first,) = publish(broker, message())
        old = claim_one(broker)
        settle(broker, old, Ack())
        if capabilities.dedupe_window_seconds:
            assert broker.publish([first]) == [Duplicate(first.id)]
            assert settle(broker, old, Ack()) == Gone()
            assert claim_all(broker) == []
            return
        publish(broker, first)
        new = claim_one(broker)
        assert settle(broker, old, Ack()) != Applied()
        assert broker.extend([old]) == [Lost()]
        assert settle(broker, new, Ack()) == Applied()

    def test_rule_09_a_lease_is_good_in_the_hands_of_another_broker_object(
        self, harness: Harness, broker: Broker
    ) -> None:
        """The fence is what holds it: a worker may reconnect between claim and settlement.

        Where leases end with the object that took them, another changes nothing with them.
        """
        publish(broker, *messages(2))
        leases = claim(broker, limit=2)
        if not broker.capabilities.leases_outlive:
            other = harness.open()
            assert other.extend(leases) == [Lost()] * 2
            assert settle(other, leases[0], Ack()) == Stale()
            assert broker.extend(leases) == [HELD] * 2
            assert {settle(broker, lease, Ack()) for lease in leases} == {Applied()}
            return
        broker = harness.reopen(broker)
        assert broker.extend(leases) == [HELD] * 2
        assert settle(harness.open(), leases[0], Ack()) == Applied()
        assert settle(broker, leases[1], Ack()) == Applied()

    @pytest.mark.parametrize("swept", [False, True])
    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_rule_09_a_late_settlement_counts_until_the_message_is_granted_again(
        self, harness: Harness, broker: Broker, outcome: str, swept: bool
    ) -> None:
        """It is applied, says that it was late, and nothing is counted as lost."""
        publish(broker, message())
        lease = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        if swept:
            assert claim(broker, "another") == []
        assert settle(broker, lease, OUTCOMES[outcome]) == late(broker)
        again = claim_all(broker)
        if late(broker) == Stale():
            assert [one.lost for one in again] == [1]
        else:
            assert [one.lost for one in again] == ([0] if outcome in ("nack", "release") else [])

    @pytest.mark.parametrize("swept", [False, True])
    def test_rule_09_a_late_extension_takes_the_message_back(
        self, harness: Harness, broker: Broker, swept: bool
    ) -> None:
        """It is hidden again, for a whole visibility timeout, and nothing is counted as lost.

        Where a late settlement does not count, the extension does not either.
        """
        publish(broker, message())
        lease = claim_one(broker)
        harness.let_pass(VISIBILITY_MS + 7)
        if swept:
            assert claim(broker, "another") == []
        if late(broker) == Stale():
            assert broker.extend([lease]) == [Lost()]
            assert claim_one(broker).lost == 1
            return
        assert broker.extend([lease]) == [HELD]
        assert claim_all(broker) == []
        assert settle(broker, lease, Release()) == Applied()
        assert counters(claim_one(broker)) == (0, 0, 0)

    def test_rule_09_a_lease_that_was_taken_back_runs_out_again(
        self, harness: Harness, broker: Broker
    ) -> None:
        """And is then lost once, not twice."""
        publish(broker, message())
        lease = claim_one(broker)
        for _ in range(2):
            harness.let_pass(VISIBILITY_MS)
            assert claim(broker, "another") == []
            assert broker.extend([lease]) == [Lost() if late(broker) == Stale() else HELD]
        harness.let_pass(VISIBILITY_MS)
        assert claim_one(broker).lost == 1
        assert broker.extend([lease]) == [Lost()]

    @pytest.mark.parametrize("tick", [-1, 0])
    def test_rule_09_a_lease_is_late_from_its_expiry_on(
        self, harness: Harness, broker: Broker, tick: int
    ) -> None:
        """A tick earlier it is in time."""
        publish(broker, message())
        lease = claim_one(broker)
        harness.let_pass(VISIBILITY_MS + tick * harness.tick_ms)
        assert settle(broker, lease, Ack()) == (late(broker) if tick == 0 else Applied())

    @pytest.mark.parametrize("late", [False, True])
    def test_rule_10_what_was_acknowledged_never_comes_back(
        self, harness: Harness, broker: Broker, late: bool
    ) -> None:
        """Not when its lease would have run out, not to another, not after reopening."""
        publish(broker, message())
        lease = claim_one(broker)
        if late:
            harness.let_pass(VISIBILITY_MS)
            if not broker.capabilities.native_fence:
                lease = claim_one(broker)
        assert isinstance(settle(broker, lease, Ack()), Applied)
        for _ in range(3):
            harness.let_pass(VISIBILITY_MS)
            broker.idle()
            broker = harness.reopen(broker)
            assert claim_all(broker) == []
            assert settle(broker, lease, Release()) in no_longer_there(broker)

    @pytest.mark.parametrize("first", ["ack", "dead letter"])
    @pytest.mark.parametrize("second", OUTCOMES)
    def test_rule_11_what_is_no_longer_there_is_gone(
        self, broker: Broker, first: str, second: str
    ) -> None:
        """Whoever asks: the one whose answer was lost can tell that it had arrived."""
        publish(broker, message())
        lease = claim_one(broker)
        assert settle(broker, lease, OUTCOMES[first]) == Applied()
        assert settle(broker, lease, OUTCOMES[second]) == Gone()
        assert broker.extend([lease]) == [Lost()]
        assert claim_all(broker) == []

    def test_rule_11_a_lease_of_a_message_that_never_was_is_gone(self, broker: Broker) -> None:
        """As after a restore of the store from an older copy."""
        publish(broker, message())
        lease = claim_one(broker)
        strange = replace(lease, message=message(), receipt=2**40)
        assert settle(broker, strange, Ack()) in no_longer_there(broker)
        assert broker.extend([strange]) == [Lost()]
        assert settle(broker, lease, Ack()) == Applied()

    def test_rule_11_the_same_settlement_twice_in_one_batch(self, broker: Broker) -> None:
        """The first one counts."""
        publish(broker, message())
        lease = claim_one(broker)
        assert broker.settle([Settlement(lease, Ack())] * 2) == [Applied(), Gone()]

    def test_rule_11_two_settlements_of_one_lease_in_one_batch(self, broker: Broker) -> None:
        """The first one counts, whatever the second one wants."""
        publish(broker, message())
        lease = claim_one(broker)
        answers = broker.settle([Settlement(lease, Release()), Settlement(lease, Ack())])
        assert answers == [Applied(), Stale()]
        assert len(claim_all(broker)) == 1

    def test_a_batch_of_settlements_is_answered_one_by_one(
        self, harness: Harness, broker: Broker
    ) -> None:
        """What cannot be applied does not stop the others."""
        old = lose(harness, broker, "release")
        publish(broker, *messages(4))
        held = claim(broker, limit=5)
        gone = held[1]
        settle(broker, gone, Ack())
        ends: list[tuple[Lease, Outcome]] = [
            (held[2], Ack()),
            (old, Ack()),
            (held[3], Release()),
            (gone, Ack()),
        ]
        ends += [(held[4], Nack(0, ERROR)), (held[0], Ack())]
        answers = broker.settle([Settlement(lease, outcome) for lease, outcome in ends])
        assert answers == [Applied(), Stale(), Applied(), Gone(), Applied(), Applied()]
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, ids(held[3:5]))

    @pytest.mark.parametrize("count", [0, 1, 60])
    def test_a_batch_of_any_size_is_settled(self, broker: Broker, count: int) -> None:
        """Settlements know no batch limit: they must not wait for one another."""
        publish(broker, *messages(count))
        leases = claim_all(broker)
        assert broker.settle([Settlement(one, Ack()) for one in leases]) == [Applied()] * count
        assert broker.extend(leases) == [Lost()] * count

    def test_acknowledgements_may_come_as_leases(self, broker: Broker) -> None:
        """As the worker's do; one of them that is gone, or there twice, stops no other."""
        publish(broker, *messages(4))
        first, gone, second, third = claim(broker, limit=4)
        settle(broker, gone, Ack())
        answers = broker.settle(Acked([first, gone, second, third, second]))
        assert answers == [Applied(), Gone(), Applied(), Applied(), Gone()]
        publish(broker, *messages(2))
        assert broker.settle(Acked(claim(broker, limit=2))) == [Applied()] * 2
        assert claim_all(broker) == []

    def test_rule_13_an_extension_lasts_from_now(self, harness: Harness, broker: Broker) -> None:
        """And holds off the others for a whole visibility timeout."""
        publish(broker, *messages(2))
        kept, left = claim(broker, limit=2)
        harness.let_pass(VISIBILITY_MS // 2)
        assert broker.extend([kept]) == [HELD]
        harness.let_pass(VISIBILITY_MS // 2)
        assert ids(claim_all(broker)) == ids([left])
        harness.let_pass(VISIBILITY_MS // 2 - harness.tick_ms)
        assert claim_all(broker) == []
        harness.let_pass(harness.tick_ms)
        assert ids(claim_all(broker)) == ids([kept])

    def test_rule_13_an_extension_never_shortens(self, harness: Harness, broker: Broker) -> None:
        """Asked for twice at once, it is the same."""
        publish(broker, message())
        lease = claim_one(broker)
        assert broker.extend([lease, lease]) == [HELD, HELD]
        assert broker.extend([lease]) == [HELD]
        harness.let_pass(VISIBILITY_MS - harness.tick_ms)
        assert claim_all(broker) == []

    def test_rule_13_extended_for_ever_a_lease_counts_nothing(
        self, harness: Harness, broker: Broker
    ) -> None:
        """A long job costs no budget."""
        publish(broker, message())
        lease = claim_one(broker)
        for _ in range(20):
            harness.let_pass(VISIBILITY_MS // 3)
            assert broker.extend([lease]) == [HELD]
        assert settle(broker, lease, Release()) == Applied()
        assert counters(claim_one(broker)) == (0, 0, 0)

    def test_rule_13_extending_nothing_is_no_mistake(self, broker: Broker) -> None:
        """An empty batch, an empty answer."""
        assert broker.extend([]) == []

    def test_rule_13_each_lease_is_extended_by_its_own_timeout(self, broker: Broker) -> None:
        """Answered one by one, in order."""
        publish(broker, *(message(visibility_timeout_ms=ms) for ms in (1_000, 60_000, 5_000)))
        leases = claim(broker, limit=3)
        leases.sort(key=lambda lease: lease.message.id)
        settle(broker, leases[1], Ack())
        assert broker.extend(leases[::-1]) == [Held(5.0), Lost(), Held(1.0)]
