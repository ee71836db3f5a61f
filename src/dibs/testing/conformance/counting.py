"""Cases of counters, dead letters and counts: rules 14, 15, 16 and 33 of the contract (G6, G7).

Owns: what is counted, when, and that a message is in exactly one place.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

import pytest

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Applied, Broker
from dibs.message import (
    Ack,
    Attempt,
    Charge,
    DeadLetter,
    DeadMessage,
    Error,
    Message,
    Nack,
    QueueCounts,
    Reason,
    Release,
)
from dibs.testing.conformance.cases import Cases, dead_letters, late
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
    lawful_fields,
    message,
    messages,
    publish,
    settle,
)

CHARGES: dict[Charge, tuple[int, int, int]] = {
    "nothing": (0, 0, 0),
    "failure": (1, 0, 0),
    "crash": (0, 1, 0),
}


def counts(broker: Broker, queue: str = "photos") -> QueueCounts:
    """Return the counts of one queue."""
    (found,) = (one for one in broker.inspector().queues() if one.name == queue)
    return found


def assert_counts(broker: Broker, *expected: int) -> None:
    """Look at how much is ready, scheduled, in flight and dead.

    Where counts are not exact, each is a number or, where nobody can tell, None.
    """
    found = counts(broker)
    told = (found.ready, found.scheduled, found.in_flight, found.dead)
    if broker.capabilities.exact_counts:
        assert told == expected
    else:
        assert all(number is None or number >= 0 for number in told)


def assert_age(broker: Broker, expected: float | None) -> None:
    """Look at the age of the oldest ready message."""
    found = counts(broker).oldest_ready_seconds
    if broker.capabilities.exact_counts:
        assert found == expected
    else:
        assert found is None or found >= 0


class Counting(Cases):
    """What a message's counters say, and a queue's counts."""

    @pytest.mark.parametrize("charge", CHARGES)
    @pytest.mark.parametrize("delay_ms", [0, 1_000])
    def test_rule_14_a_nack_counts_what_it_charges(
        self, harness: Harness, broker: Broker, charge: Charge, delay_ms: int
    ) -> None:
        """One of it, and nothing else."""
        publish(broker, message())
        settle(broker, claim_one(broker), Nack(delay_ms, ERROR, charge))
        harness.let_pass(delay_ms)
        assert counters(claim_one(broker)) == CHARGES[charge]

    @pytest.mark.parametrize("delay_ms", [0, 1_000])
    def test_rule_14_a_release_counts_nothing(
        self, harness: Harness, broker: Broker, delay_ms: int
    ) -> None:
        """However often, and the attempt stays the first."""
        publish(broker, message())
        for _ in range(3):
            lease = claim_one(broker)
            assert (counters(lease), lease.attempt) == ((0, 0, 0), 1)
            settle(broker, lease, Release(delay_ms))
            harness.let_pass(delay_ms)

    def test_rule_14_a_claim_over_an_expired_lease_counts_a_loss(
        self, harness: Harness, broker: Broker
    ) -> None:
        """One each time, and the lease itself says so before its job starts."""
        publish(broker, message())
        for lost in range(4):
            assert claim_one(broker).lost == lost
            harness.let_pass(VISIBILITY_MS)

    def test_rule_14_a_loss_is_counted_once_however_often_it_is_looked_at(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Claims of other queues and quiet moments count nothing."""
        publish(broker, message())
        claim_one(broker)
        for _ in range(3):
            harness.let_pass(VISIBILITY_MS)
            assert claim(broker, "another") == []
            broker.idle()
        assert claim_one(broker).lost == 1

    def test_rule_14_each_counter_is_its_own_and_the_attempt_is_their_sum(
        self, harness: Harness, broker: Broker
    ) -> None:
        """The attempt is failures + crashes + lost + 1, kept across reopening."""
        publish(broker, message())
        for charge in ("failure", "crash", "failure"):
            settle(broker, claim_one(broker), Nack(0, ERROR, charge))
        claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        broker = harness.reopen(broker)
        lease = claim_one(broker)
        assert counters(lease) == (2, 1, 1)
        assert lease.attempt == 5

    def test_rule_14_messages_count_apart(self, broker: Broker) -> None:
        """In one batch, each its own."""
        publish(broker, *messages(3))
        leases = claim(broker, limit=3)
        settle(broker, leases[0], Nack(0, ERROR, "crash"))
        settle(broker, leases[2], Nack(0, ERROR, "failure"))
        settle(broker, leases[1], Release())
        found = {lease.message.id: counters(lease) for lease in claim(broker, limit=3)}
        assert [found[id] for id in ids(leases)] == [(0, 1, 0), (0, 0, 0), (1, 0, 0)]

    @pytest.mark.parametrize("charge", ["failure", "crash"])
    def test_rule_15_the_broker_counts_past_a_budget_and_judges_nothing(
        self, broker: Broker, charge: Charge
    ) -> None:
        """Whether a budget is used up is the policy's verdict, given as a `DeadLetter`."""
        publish(broker, message(max_attempts=1, max_crashes=1, max_lost=1))
        for attempt in range(1, 5):
            lease = claim_one(broker)
            assert lease.attempt == attempt
            settle(broker, lease, Nack(0, ERROR, charge))

    @pytest.mark.parametrize("reason", ["max_attempts", "max_crashes", "max_lost", "undecodable"])
    def test_rule_15_a_dead_message_is_never_granted_again(
        self, harness: Harness, broker: Broker, reason: Reason
    ) -> None:
        """Whatever it died of, and however long one waits."""
        publish(broker, message())
        settle(broker, claim_one(broker), DeadLetter(reason, ERROR))
        for _ in range(3):
            harness.let_pass(VISIBILITY_MS)
            broker.idle()
            broker = harness.reopen(broker)
            assert claim_all(broker) == []

    @pytest.mark.parametrize("charge", CHARGES)
    def test_rule_16_a_dead_letter_keeps_everything(
        self, harness: Harness, broker: Broker, capabilities: Capabilities, charge: Charge
    ) -> None:
        """Its bytes, its counters after the last charge, the reason, the error and the time."""
        key = "key" if capabilities.unique_keys else None
        whole = message(args=bytes(range(256)), headers={"a": "\0é"}, unique_key=key, version=7)
        publish(broker, whole)
        claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        lease = claim_one(broker)
        died_ms = harness.clock.wall_ms()
        settle(broker, lease, DeadLetter("undecodable", ERROR, charge))
        failures, crashes, lost = CHARGES[charge]
        expected = DeadMessage(
            message=whole,
            reason="undecodable",
            error=ERROR,
            fence=lease.fence,
            failures=failures,
            crashes=crashes,
            lost=lost + 1,
            died_ms=died_ms,
            attempts=(Attempt(lease.fence, died_ms, charge, ERROR),),
        )
        assert dead_letters(broker) in ([expected], None)
        assert dead_letters(harness.reopen(broker), "photos") in ([expected], None)

    @pytest.mark.parametrize("name", ["every byte", "arguments that are no JSON", "no arguments"])
    def test_rule_16_a_dead_letter_keeps_its_bytes(
        self, broker: Broker, capabilities: Capabilities, name: str
    ) -> None:
        """They are what a person must be able to look at."""
        (whole,) = publish(broker, message(**lawful_fields(capabilities)[name]))
        settle(broker, claim_one(broker), OUTCOMES["dead letter"])
        if (found := dead_letters(broker)) is not None:
            assert [dead.message for dead in found] == [whole]

    def test_rule_16_an_error_of_any_text_is_kept(self, broker: Broker) -> None:
        """Quotes, line ends, zero bytes and planes beyond the first."""
        error = Error("Ошибка", "'\"\\\n\0\u202e𝄞", "x" * 100_000)
        publish(broker, message())
        settle(broker, claim_one(broker), DeadLetter("rejected", error))
        if (found := dead_letters(broker)) is not None:
            assert [dead.error for dead in found] == [error]

    def test_rule_16_dead_letters_are_listed_newest_first(
        self, harness: Harness, broker: Broker
    ) -> None:
        """By queue if asked, and no more than asked for."""
        died = publish(broker, message("a"), message("b"), message("a"), message("b"))
        for queue in ("a", "b", "a", "b"):
            harness.let_pass(1_000)
            settle(broker, claim_one(broker, queue), OUTCOMES["dead letter"])
        newest = list(reversed(died))
        asked: list[tuple[str | None, int, list[Message]]] = [
            (None, 100, newest),
            (None, 3, newest[:3]),
            ("a", 100, [newest[1], newest[3]]),
            ("b", 1, [newest[0]]),
            ("never-heard-of", 100, []),
            (None, 0, []),
        ]
        for queue_or_all, limit, expected in asked:
            if (found := dead_letters(broker, queue_or_all, limit)) is not None:
                assert [dead.message for dead in found] == expected

    def test_rule_16_every_message_is_in_exactly_one_place(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Published = done + dead + live, as sets of ids and as counts."""
        now_ms = harness.clock.wall_ms()
        published = publish(broker, *messages(10), *messages(2, due_ms=now_ms + 60_000))
        held = claim(broker, limit=8)
        done, dead, back, later, kept = held[:2], held[2:4], held[4], held[5], held[6:]
        for lease in done:
            settle(broker, lease, Ack())
        for lease in dead:
            settle(broker, lease, OUTCOMES["dead letter"])
        settle(broker, back, Release())
        settle(broker, later, Nack(60_000, ERROR))
        assert_counts(broker, 3, 3, 2, 2)
        harness.let_pass(60_000)
        live = claim_all(broker)
        assert set(ids(live)) == set(ids(published)) - set(ids(done)) - set(ids(dead))
        assert {*ids([back, later]), *ids(kept)} <= set(ids(live))
        if (found := dead_letters(broker)) is not None:
            assert {one.message.id for one in found} == set(ids(dead))

    def test_rule_33_counts_follow_every_move(self, harness: Harness, broker: Broker) -> None:
        """Ready, scheduled, in flight, dead, as a claim at this moment would find them."""
        broker.declare(["photos"])
        assert_counts(broker, 0, 0, 0, 0)
        publish(broker, message(), message(due_ms=harness.clock.wall_ms() + 1_000))
        assert_counts(broker, 1, 1, 0, 0)
        lease = claim_one(broker)
        assert_counts(broker, 0, 1, 1, 0)
        harness.let_pass(1_000)
        assert_counts(broker, 1, 0, 1, 0)
        harness.let_pass(VISIBILITY_MS)
        assert_counts(broker, 2, 0, 0, 0)
        lease = lease if broker.capabilities.native_fence else claim_one(broker)
        assert isinstance(settle(broker, lease, OUTCOMES["dead letter"]), Applied)
        assert_counts(broker, 1, 0, 0, 1)
        settle(broker, claim_one(broker), Nack(5_000, ERROR))
        assert_counts(broker, 0, 1, 0, 1)
        harness.let_pass(5_000)
        settle(broker, claim_one(broker), Ack())
        assert_counts(broker, 0, 0, 0, 1)

    def test_rule_33_queues_are_listed_by_name_and_counted_apart(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Declared ones too, empty as they are."""
        broker.declare(["c", "empty"])
        publish(broker, *messages(2, "b"), *messages(1, "c"), message("a"))
        claim_one(broker, "b")
        listed = broker.inspector().queues()
        assert [one.name for one in listed] == ["a", "b", "c", "empty"]
        if capabilities.exact_counts:
            assert [(one.ready, one.in_flight) for one in listed] == [
                (1, 0),
                (1, 1),
                (1, 0),
                (0, 0),
            ]

    def test_rule_33_looking_changes_nothing(self, harness: Harness, broker: Broker) -> None:
        """An expired lease may still be settled in full after people have looked at it."""
        publish(broker, *messages(2))
        lease = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        for _ in range(2):
            broker.inspector().queues()
            dead_letters(broker)
        assert settle(broker, lease, Ack()) == late(broker)
        assert len(claim_all(broker)) == (1 if broker.capabilities.native_fence else 2)

    def test_rule_33_the_oldest_ready_message_has_an_age(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Counted from when it could first be had; none where nothing is ready."""
        broker.declare(["photos"])
        assert_age(broker, None)
        due_ms = harness.clock.wall_ms() + 2_000
        publish(broker, message(due_ms=due_ms, visibility_timeout_ms=60_000))
        assert_age(broker, None)
        harness.let_pass(5_000)
        assert_age(broker, 3.0)
        publish(broker, message())
        harness.let_pass(1_000)
        assert_age(broker, 4.0)
        assert len(ids([claim_one(broker)])) == 1
        assert_age(broker, 1.0)
        claim_all(broker)
        assert_age(broker, None)
