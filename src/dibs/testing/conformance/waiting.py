"""Cases of waiting: rules 21, 23 and 24 of the contract, the bell and `next_in` (G3).

Owns: that a waiter is told of work, or of the end of a job, and that the right one is.
Must never: sleep, or wait on a bell that may stay silent.
Called by: pytest, through `BrokerConformance`.
"""

import select

import pytest

from dibs.brokers.contract import Broker
from dibs.message import Ack, DeadLetter, Lease, Nack, Outcome, Release, Result
from dibs.testing.conformance.cases import Cases, told
from dibs.testing.harness import Harness
from dibs.testing.making import (
    ERROR,
    VISIBILITY_MS,
    claim,
    claim_all,
    claim_one,
    message,
    messages,
    publish,
    settle,
)

SOON_SECONDS = 1.0
"""How long a bell may take that must ring; one that must not ring is only looked at."""


def rung(*brokers: Broker, within: float = SOON_SECONDS) -> list[Broker]:
    """Return those whose bell is readable, waiting for the first of them if `within` says so."""
    readable = select.select([broker.bell() for broker in brokers], [], [], within)[0]
    return [broker for broker in brokers if broker.bell() in readable]


def waiter(harness: Harness, *queues: str) -> Broker:
    """Return a broker that found nothing, and waits on its bell."""
    broker = harness.open()
    broker.bell()
    assert claim(broker, *queues, limit=10) == []
    return broker


def awaits(harness: Harness, *awaited: bytes) -> Broker:
    """Return a broker that waits on its bell for the end of what has not ended."""
    broker = harness.open()
    broker.bell()
    assert broker.results(awaited) == [None for _ in awaited]
    return broker


class Waiting(Cases):
    """How a broker that found nothing learns that there is something."""

    def test_rule_24_a_bell_is_one_descriptor(self, broker: Broker) -> None:
        """A selector may keep it."""
        assert broker.bell() == broker.bell()
        claim_all(broker)
        assert broker.bell() == broker.bell()

    def test_rule_24_a_publish_rings_whoever_waits(self, harness: Harness, broker: Broker) -> None:
        """The bell is readable until the claim that it asks for."""
        waiting = waiter(harness)
        assert rung(waiting, within=0) == []
        publish(broker, message())
        assert rung(waiting) == [waiting]
        assert rung(waiting) == [waiting]
        assert len(claim(waiting, limit=10)) == 1
        assert rung(waiting, within=0) == []

    def test_rule_24_it_rings_again_and_again(self, harness: Harness, broker: Broker) -> None:
        """After each claim that found too little."""
        waiting = waiter(harness)
        for _ in range(3):
            publish(broker, message())
            assert rung(waiting) == [waiting]
            assert len(claim(waiting, limit=10)) == 1

    def test_rule_24_a_claim_that_found_less_than_it_asked_for_waits_too(
        self, harness: Harness, broker: Broker
    ) -> None:
        """A worker with room left is idle in part."""
        publish(broker, message())
        waiting = harness.open()
        waiting.bell()
        assert len(claim(waiting, limit=2)) == 1
        publish(broker, message())
        assert rung(waiting) == [waiting]

    @pytest.mark.parametrize("limit", [0, 1])
    def test_rule_24_whoever_got_all_that_it_asked_for_is_not_rung(
        self, harness: Harness, broker: Broker, limit: int
    ) -> None:
        """It has no room: the ring goes to one who has. A claim of 0 stops the waiting."""
        full = waiter(harness)
        idle = harness.open() if broker.capabilities.takes_ahead else waiter(harness)
        publish(broker, *messages(limit))
        if limit and broker.capabilities.takes_ahead:
            assert rung(full) == [full]
        assert len(claim(full, limit=limit)) == limit
        idle.bell()
        assert claim(idle, limit=10) == []
        publish(broker, message())
        assert rung(full, idle) == [idle]

    def test_rule_24_a_claim_of_nothing_passes_on_the_ring(
        self, harness: Harness, broker: Broker
    ) -> None:
        """A worker that was rung and stops leaves the work to the next."""
        waiting = [waiter(harness) for _ in range(2)]
        publish(broker, message())
        (woken,) = rung(*waiting)
        waiting.remove(woken)
        assert claim(woken, limit=0) == []
        assert rung(*waiting) == waiting

    @pytest.mark.parametrize("outcome", [Release(), Nack(0, ERROR)])
    def test_rule_24_a_returned_message_rings(
        self, harness: Harness, broker: Broker, outcome: Outcome
    ) -> None:
        """It is as ready as a new one."""
        publish(broker, message())
        lease = claim_one(broker)
        waiting = waiter(harness)
        settle(broker, lease, outcome)
        assert rung(waiting) == [waiting]

    def test_rule_24_one_message_rings_one_waiter(self, harness: Harness, broker: Broker) -> None:
        """A herd would find nothing."""
        waiting = [waiter(harness) for _ in range(4)]
        publish(broker, message())
        assert len(rung(*waiting)) == 1

    def test_rule_24_whoever_leaves_something_wakes_the_next(
        self, harness: Harness, broker: Broker
    ) -> None:
        """So that a batch reaches all who have room, one after the other."""
        waiting = [waiter(harness) for _ in range(3)]
        publish(broker, *messages(3))
        served: list[Lease] = []
        while len(served) < 3:
            woken = rung(*waiting)
            assert len(woken) == 1 or (woken and broker.capabilities.takes_ahead)
            waiting = [one for one in waiting if one not in woken]
            served += [lease for one in woken for lease in claim(one, limit=1)]
        assert len(served) == 3

    def test_rule_24_only_those_who_wait_for_the_queue_are_rung(
        self, harness: Harness, broker: Broker
    ) -> None:
        """One for each queue that got something."""
        a, b, both = waiter(harness, "a"), waiter(harness, "b"), waiter(harness, "c", "d")
        publish(broker, message("b"), message("d"), message("b"))
        assert rung(b) == [b]
        assert rung(both) == [both]
        assert rung(a, within=0) == []

    def test_rule_24_a_queue_that_a_claim_leaves_out_is_waited_for_no_more(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Its ring goes to one who would claim from there; that of the others comes as before."""
        fewer, other = waiter(harness, "a", "b"), waiter(harness, "b")
        assert claim(fewer, "a", limit=10) == []
        publish(broker, message("b"))
        assert rung(fewer, other) == [other]
        publish(broker, message("a"))
        assert rung(fewer) == [fewer]

    def test_rule_24_a_waiter_that_closed_is_not_waited_for(
        self, harness: Harness, broker: Broker
    ) -> None:
        """The ring goes to one who is there."""
        gone, there = waiter(harness), waiter(harness)
        gone.close()
        publish(broker, message())
        assert rung(there) == [there]

    def test_rule_24_a_waiter_may_ring_itself(self, harness: Harness) -> None:
        """A worker's own tasks enqueue through brokers of the same process."""
        waiting = waiter(harness)
        publish(waiting, message())
        assert rung(waiting) == [waiting]

    def test_rule_24_a_new_due_time_reaches_whoever_waits(
        self, harness: Harness, broker: Broker
    ) -> None:
        """It waits for nothing else, so it must be told when to look; or when it has come."""
        waiting = waiter(harness)
        publish(broker, message(due_ms=harness.clock.wall_ms() + 5_000))
        if not broker.capabilities.tells_next:
            assert rung(waiting, within=0) == []
            harness.let_pass(5_000)
            assert rung(waiting) == [waiting]
            assert len(claim(waiting, limit=10)) == 1
            return
        assert rung(waiting) == [waiting]
        found = waiting.claim(["photos"], 10)
        assert found.leases == []
        assert found.next_in is not None
        assert 0 < found.next_in <= 5.0

    def test_rule_24_a_claim_tells_when_something_falls_due(
        self, harness: Harness, broker: Broker
    ) -> None:
        """The first of several, however it came to wait; at that moment it is there."""
        now_ms = harness.clock.wall_ms()
        publish(broker, message(due_ms=now_ms + 9_000), message(due_ms=now_ms + 4_000), message())
        settle(broker, claim_one(broker), Nack(2_000, ERROR))
        for wait_seconds in (2.0, 2.0, 5.0):
            found = broker.claim(["photos"], 10)
            assert found.leases == []
            self.tells(broker, found.next_in, within=wait_seconds)
            harness.let_pass(int(wait_seconds * 1000))
            settle(broker, claim_one(broker), Ack())

    def test_rule_23_a_claim_tells_when_a_lease_runs_out(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Whoever is idle takes over from whoever died."""
        publish(broker, message())
        claim_one(broker)
        harness.let_pass(VISIBILITY_MS // 3)
        found = harness.open().claim(["photos"], 10)
        assert found.leases == []
        self.tells(broker, found.next_in, within=VISIBILITY_MS * 2 / 3000)

    def tells(self, broker: Broker, next_in: float | None, within: float) -> None:
        """Assert that a claim said when to look, if the broker can know that at all."""
        if not broker.capabilities.tells_next:
            assert next_in is None
        else:
            assert next_in is not None
            assert 0 < next_in <= within

    def test_rule_23_what_a_dead_holder_left_is_granted_at_its_expiry(
        self, harness: Harness, broker: Broker
    ) -> None:
        """All of it, to whoever claims, with nobody's help."""
        publish(broker, *messages(20))
        holder = harness.open()
        held = claim_all(holder)
        holder.close()
        harness.let_pass(VISIBILITY_MS)
        again = claim_all(broker)
        assert len(again) == len(held) == 20
        assert {lease.lost for lease in again} == {1}

    def test_rule_24_where_nothing_will_happen_there_is_nothing_to_wait_for(
        self, broker: Broker
    ) -> None:
        """Neither at first, nor after all is done."""
        assert broker.claim(["photos"], 10).next_in is None
        publish(broker, message())
        settle(broker, claim_one(broker), Ack())
        assert broker.claim(["photos"], 10).next_in is None

    @pytest.mark.parametrize("outcome", [Ack(), Ack(b"1", 60_000), DeadLetter("rejected", ERROR)])
    def test_rule_21_the_end_of_a_message_rings_all_who_wait_for_it(
        self, harness: Harness, broker: Broker, outcome: Outcome
    ) -> None:
        """Each has a caller who is owed an answer; the bell is readable until they look."""
        (first, second) = publish(broker, *messages(2))
        waiting = [awaits(harness, first.id), awaits(harness, second.id, first.id)]
        other = awaits(harness, second.id)
        settle(broker, claim_one(broker), outcome)
        rings = broker.capabilities.results
        for one in waiting:
            assert rung(one, within=SOON_SECONDS * rings) == [one] * rings
        assert rung(other, within=0) == []
        for one in waiting:
            one.results([second.id])
        assert rung(*waiting, within=0) == []

    @pytest.mark.parametrize("outcome", [Release(), Nack(0, ERROR), Nack(1_000, ERROR)])
    def test_rule_21_what_comes_back_rings_nobody_who_waits_for_its_end(
        self, harness: Harness, broker: Broker, outcome: Outcome
    ) -> None:
        """It has not ended."""
        (whole,) = publish(broker, message())
        waiting = awaits(harness, whole.id)
        settle(broker, claim_one(broker), outcome)
        assert rung(waiting, within=0) == []

    def test_rule_21_only_the_last_look_is_waited_for(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Whoever gave up waiting is not woken; whoever waits for one more is."""
        first, second, third = publish(broker, *messages(3))
        less, more = awaits(harness, first.id, second.id), awaits(harness, second.id)
        assert less.results([second.id]) == [None]
        assert more.results([second.id, first.id]) == [None, None]
        settle(broker, claim_one(broker), Ack())
        assert rung(less, within=0) == []
        rings = broker.capabilities.results
        assert rung(more, within=SOON_SECONDS * rings) == [more] * rings
        more.results([third.id])
        settle(broker, claim_one(broker), Ack())
        assert rung(less, within=SOON_SECONDS * rings) == [less] * rings
        assert rung(more, within=0) == []

    def test_rule_21_what_ended_before_the_look_is_told_by_the_look(
        self, harness: Harness, broker: Broker
    ) -> None:
        """And rings no more."""
        (whole,) = publish(broker, message())
        settle(broker, claim_one(broker), Ack(b"1", 60_000))
        late = harness.open()
        late.bell()
        assert late.results([whole.id]) == told(broker, Result(whole.id, b"1"))
        assert rung(late, within=0) == []

    def test_rule_21_a_broker_may_wait_for_work_and_for_ends(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Neither look makes it forget the other."""
        (whole,) = publish(broker, message("videos"))
        both = awaits(harness, whole.id)
        assert claim(both, limit=10) == []
        settle(broker, claim_one(broker, "videos"), Ack())
        rings = broker.capabilities.results
        assert rung(both, within=SOON_SECONDS * rings) == [both] * rings
        both.results([])
        publish(broker, message())
        assert rung(both) == [both]

    def test_rule_21_a_waiter_that_closed_waits_for_no_end(
        self, harness: Harness, broker: Broker
    ) -> None:
        """The others are rung, and settling goes on."""
        (whole,) = publish(broker, message())
        gone, there = awaits(harness, whole.id), awaits(harness, whole.id)
        gone.close()
        settle(broker, claim_one(broker), Ack())
        rings = broker.capabilities.results
        assert rung(there, within=SOON_SECONDS * rings) == [there] * rings
