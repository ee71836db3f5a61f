"""Cases of claiming: rules 8, 17, 24 and 30 of the contract, order and fairness (G3, G8, G9).

Owns: who is granted what, in which order, and never early.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

from collections import Counter

import pytest

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Broker
from dibs.message import Ack, Nack, Outcome, Release
from dibs.testing.conformance.cases import Cases, assert_refused, in_order
from dibs.testing.harness import Harness
from dibs.testing.making import (
    ERROR,
    OUTCOMES,
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

DAY_MS = 24 * 3_600_000
WAYS_BACK: dict[str, Outcome | None] = {
    "nack": Nack(0, ERROR),
    "nack with delay": Nack(5_000, ERROR),
    "release": Release(),
    "release with delay": Release(5_000),
    "lease ran out": None,
}


class Claiming(Cases):
    """What `claim` grants."""

    @pytest.mark.parametrize(("stored", "limit"), [(0, 5), (3, 5), (5, 5), (7, 5), (3, 1)])
    def test_a_claim_grants_what_is_there_up_to_its_limit(
        self, broker: Broker, stored: int, limit: int
    ) -> None:
        """Never one more."""
        publish(broker, *messages(stored))
        assert len(claim(broker, limit=limit)) == min(stored, limit)

    def test_a_claim_of_nothing_is_granted_nothing(self, broker: Broker) -> None:
        """No room, no queues, or a queue that nobody has heard of."""
        published = publish(broker, message())
        assert claim(broker, "photos", limit=0) == []
        assert broker.claim([], 10).leases == []
        assert claim(broker, "never-heard-of", limit=10) == []
        assert ids(claim_all(broker)) == ids(published)

    def test_a_claim_of_more_than_the_batch_limit_is_cut(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """To the limit or below: a claim promises no number."""
        publish(broker, *messages(2))
        assert len(claim(broker, limit=capabilities.batch_limit + 1)) == 2

    def test_a_queue_claimed_before_its_first_message_is_served_after_it(
        self, broker: Broker
    ) -> None:
        """A worker may be there first."""
        assert claim(broker, "early") == []
        publish(broker, message("early"))
        assert len(claim(broker, "early")) == 1

    def test_only_the_queues_that_are_asked_for_are_served(self, broker: Broker) -> None:
        """A message is in one queue."""
        publish(broker, message("a"), message("b"), message("A"))
        assert [lease.message.queue for lease in claim_all(broker, "b", "c")] == ["b"]

    def test_a_queue_asked_for_twice_is_one_queue(self, broker: Broker) -> None:
        """And each message is granted once."""
        published = publish(broker, *messages(3))
        granted = ids(claim(broker, "photos", "photos", limit=10))
        assert in_order(broker, granted) == in_order(broker, ids(published))

    def test_rule_08_what_is_granted_is_hidden_from_all(
        self, harness: Harness, broker: Broker
    ) -> None:
        """From its own holder's next claim as from everybody else's."""
        publish(broker, *messages(3))
        other = harness.open()
        granted = ids(claim(broker, limit=2))
        assert len(granted) == 2
        rest = ids(claim(other, limit=10))
        assert len(rest) == 1
        assert not set(granted) & set(rest)
        assert claim_all(broker) == claim_all(other) == []

    def test_rule_08_clients_that_claim_in_turn_share_the_work(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Every message goes to one of them."""
        published = publish(broker, *messages(30))
        clients = [broker, harness.open(), harness.open()]
        granted = [lease for _ in range(5) for each in clients for lease in claim(each, limit=2)]
        assert sorted(ids(granted)) == sorted(ids(published))

    def test_rule_08_a_lease_outlives_the_broker_object_that_took_it(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Closing gives nothing back; the lease ends by settlement or in time.

        Where it does not outlive that object, the message is back at once, and counted as lost.
        """
        publish(broker, message())
        claim_one(broker)
        broker = harness.reopen(broker)
        if not broker.capabilities.leases_outlive:
            assert claim_one(broker).lost == 1
            return
        assert claim_all(broker) == []
        harness.let_pass(VISIBILITY_MS)
        assert len(claim_all(broker)) == 1

    def test_in_publish_order_whatever_the_ids(self, broker: Broker) -> None:
        """The order of confirmation counts, not that of the ids."""
        new = messages(20)
        published = publish(broker, *reversed(new[:10])) + publish(broker, *reversed(new[10:]))
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, ids(published))

    def test_by_priority_then_in_publish_order(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """9 first; equals in the order in which they came."""
        if not capabilities.priorities:
            for priority in range(1, 10):
                assert_refused(broker, message(priority=priority), "priority")
            return
        mixed = [message(priority=number * 7 % 10) for number in range(30)]
        publish(broker, *mixed)
        by_priority = sorted(mixed, key=lambda one: -one.priority)
        assert ids(claim_all(broker)) == ids(by_priority)

    @pytest.mark.parametrize("way", WAYS_BACK)
    def test_a_returned_message_keeps_its_place(
        self, harness: Harness, broker: Broker, way: str
    ) -> None:
        """It stands where it stood, before what was published after it."""
        first, second, third = publish(broker, *messages(3))
        lease = claim_one(broker)
        outcome = WAYS_BACK[way]
        if outcome is not None:
            settle(broker, lease, outcome)
        harness.let_pass(VISIBILITY_MS)
        expected = ids([first, second, third])
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, expected)

    def test_a_message_that_fell_due_stands_where_it_was_published(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Publish order, not the order of due times."""
        now_ms = harness.clock.wall_ms()
        delays = [0, 3_000, 1_000, 0, 2_000]
        published = publish(broker, *(message(due_ms=now_ms + ms) for ms in delays))
        harness.let_pass(3_000)
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, ids(published))

    @pytest.mark.parametrize("limit", [3, 6, 7, 8, 12])
    def test_several_queues_share_a_claim(
        self, broker: Broker, capabilities: Capabilities, limit: int
    ) -> None:
        """Each gets its share, to within one, and in its own order."""
        queues = {queue: publish(broker, *messages(10, queue)) for queue in ("a", "b", "c")}
        granted = claim(broker, *queues, limit=limit)
        shares = Counter(lease.message.queue for lease in granted)
        assert shares.total() == min(limit, capabilities.batch_limit)
        assert max(shares.values()) - min(shares.values()) <= 1
        for queue, published in queues.items():
            mine = [lease for lease in granted if lease.message.queue == queue]
            assert set(ids(mine)) <= set(ids(published))
            assert not capabilities.ordered or ids(mine) == ids(published[: len(mine)])

    def test_what_one_queue_does_not_use_goes_to_the_others(self, broker: Broker) -> None:
        """A share is no reservation."""
        publish(broker, *messages(1, "short"), *messages(20, "long"))
        assert len(claim(broker, "short", "empty", "long", limit=8)) == 8

    def test_rule_30_claims_of_one_serve_every_queue(self, broker: Broker) -> None:
        """The turn goes on from claim to claim."""
        for queue in ("a", "b", "c"):
            publish(broker, *messages(5, queue))
        served = [claim_one(broker, "a", "b", "c").message.queue for _ in range(6)]
        assert Counter(served) == {"a": 2, "b": 2, "c": 2}

    def test_rule_30_a_hot_queue_starves_nobody(self, broker: Broker) -> None:
        """However much lies in the one, the other is served at once."""
        publish(broker, *messages(300, "hot"), *messages(2, "quiet"))
        granted = claim(broker, "hot", "quiet", limit=4)
        assert Counter(lease.message.queue for lease in granted) == {"hot": 2, "quiet": 2}

    def test_rule_30_what_cannot_be_granted_is_in_nobodys_way(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Scheduled, dead and leased messages in front of one that is ready."""
        long_ms = min(DAY_MS, capabilities.longest_delay_ms)
        publish(broker, *messages(120, due_ms=harness.clock.wall_ms() + long_ms))
        long_ms = min(DAY_MS, capabilities.longest_lease_ms or DAY_MS)
        publish(broker, *messages(120, visibility_timeout_ms=long_ms))
        for lease in claim_all(broker)[::2]:
            settle(broker, lease, OUTCOMES["dead letter"])
        (ready,) = publish(broker, message())
        assert ids(claim(broker)) == [ready.id]

    @pytest.mark.parametrize("waited_for", ["due time", "expiry"])
    def test_rule_30_a_great_many_that_come_at_once_come_in_order(
        self, harness: Harness, broker: Broker, capabilities: Capabilities, waited_for: str
    ) -> None:
        """However a broker cuts the work of moving them, the most urgent one is first."""
        due_ms = harness.clock.wall_ms() + VISIBILITY_MS if waited_for == "due time" else 0
        urgency = 9 if capabilities.priorities else 0
        many = publish(broker, *messages(harness.great_many, due_ms=due_ms))
        urgent = publish(broker, message(due_ms=due_ms, priority=urgency))
        claim_all(broker)
        harness.let_pass(VISIBILITY_MS)
        expected = urgent + many if urgency else many + urgent
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, ids(expected))

    def test_rule_17_nothing_is_granted_before_its_due_time(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Not a tick before, and then at once."""
        publish(broker, message(due_ms=harness.clock.wall_ms() + 60_000))
        harness.let_pass(60_000 - harness.tick_ms)
        assert claim_all(broker) == []
        harness.let_pass(harness.tick_ms)
        assert len(claim_all(broker)) == 1

    @pytest.mark.parametrize("late_ms", [0, 1, DAY_MS])
    def test_rule_17_a_due_time_that_is_past_is_now(
        self, harness: Harness, broker: Broker, late_ms: int
    ) -> None:
        """A producer's clock may be a little behind."""
        publish(broker, message(due_ms=harness.clock.wall_ms() - late_ms))
        assert len(claim_all(broker)) == 1

    @pytest.mark.parametrize("way", ["nack with delay", "release with delay"])
    def test_rule_17_a_returned_message_waits_for_its_delay(
        self, harness: Harness, broker: Broker, way: str
    ) -> None:
        """Counted from the settlement."""
        publish(broker, message())
        lease = claim_one(broker)
        harness.let_pass(2_000)
        outcome = WAYS_BACK[way]
        assert outcome is not None
        settle(broker, lease, outcome)
        harness.let_pass(5_000 - harness.tick_ms)
        assert claim_all(broker) == []
        harness.let_pass(harness.tick_ms)
        assert len(claim_all(broker)) == 1

    def test_rule_17_nothing_is_granted_before_its_holders_lease_has_ended(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Each message by its own visibility timeout."""
        publish(broker, message(visibility_timeout_ms=1_000), message(visibility_timeout_ms=2_000))
        claimed = {lease.message.visibility_timeout_ms: lease for lease in claim_all(broker)}
        quick, slow = ids([claimed[1_000], claimed[2_000]])
        harness.let_pass(1_000 - harness.tick_ms)
        assert claim_all(broker) == []
        harness.let_pass(harness.tick_ms)
        assert ids(claim_all(broker)) == [quick]
        harness.let_pass(1_000)
        assert set(ids(claim_all(broker))) == {quick, slow}

    @pytest.mark.parametrize("step_ms", [-DAY_MS, -1, 1, DAY_MS])
    def test_rule_17_a_step_of_the_wall_clock_moves_no_lease(
        self, harness: Harness, broker: Broker, step_ms: int
    ) -> None:
        """Neither forth nor back; where nobody can set the clock, it stands to no step at all."""
        publish(broker, message())
        claim_one(broker)
        harness.let_pass(VISIBILITY_MS - harness.tick_ms)
        if harness.wall_steps:
            harness.step_wall(step_ms)
        assert claim_all(broker) == []
        harness.let_pass(harness.tick_ms)
        assert len(claim_all(broker)) == 1

    def test_rule_17_due_times_follow_the_wall_clock(
        self, harness: Harness, broker: Broker
    ) -> None:
        """As people expect: set back, it is later; set forward, it is sooner; not set, as said."""
        publish(broker, message(due_ms=harness.clock.wall_ms() + 1_000))
        if harness.wall_steps:
            harness.step_wall(-DAY_MS)
            harness.let_pass(1_000)
            assert claim_all(broker) == []
            harness.step_wall(DAY_MS)
        else:
            harness.let_pass(1_000)
        assert len(claim_all(broker)) == 1

    def test_rule_17_several_things_fall_due_together(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Expired, scheduled and returned, over several queues, in one claim."""
        publish(broker, message("a"), message("b"), message("c"))
        claim_one(broker, "a")
        settle(broker, claim_one(broker, "b"), Release(VISIBILITY_MS))
        settle(broker, claim_one(broker, "c"), Ack())
        publish(broker, message("c", due_ms=harness.clock.wall_ms() + VISIBILITY_MS))
        assert claim_all(broker, "a", "b", "c") == []
        harness.let_pass(VISIBILITY_MS)
        assert {lease.message.queue for lease in claim_all(broker, "a", "b", "c")} == {*"abc"}
