"""Cases of what is kept, and of what no moment may undo: rules 1, 12, 16 and 21 (G6, G14, G15).

Owns: results, attempts, reopening, and calls that are cut short.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

from operator import attrgetter

import pytest

from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.contract import ATTEMPTS_KEPT, Applied, Broker, Duplicate, Held
from dibs.message import (
    Ack,
    Attempt,
    Charge,
    DeadLetter,
    Error,
    Nack,
    Outcome,
    Release,
    Result,
    Settlement,
)
from dibs.testing.conformance.cases import Cases, dead_letters, in_order, late, told
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
    new_id,
    publish,
    settle,
)

KEEP_MS = 60_000
MOST_READINGS = 20
CHARGES: tuple[Charge, ...] = ("failure", "nothing", "crash")
VALUES = {
    "JSON": b'{"size":[200,150]}',
    "null": b"null",
    "no value": None,
    "no bytes": b"",
    "every byte": bytes(range(256)),
    "a megabyte": b"x" * 1_000_000,
}


class Keeping(Cases):
    """What a broker keeps: results for their time, and every message whatever happens."""

    @pytest.mark.parametrize("name", VALUES)
    def test_rule_21_a_result_is_readable_once_its_ack_is_applied(
        self, harness: Harness, broker: Broker, name: str
    ) -> None:
        """By everybody, byte for byte, also after reopening."""
        publish(broker, message())
        lease = claim_one(broker)
        assert broker.results([lease.message.id]) == [None]
        settle(broker, lease, Ack(VALUES[name], KEEP_MS))
        kept = told(broker, Result(lease.message.id, VALUES[name]))
        assert broker.results([lease.message.id]) == kept
        assert harness.open().results([lease.message.id]) == kept
        assert harness.reopen(broker).results([lease.message.id]) == kept

    @pytest.mark.parametrize("tidy", [False, True])
    def test_rule_21_a_result_is_kept_for_its_time(
        self, harness: Harness, broker: Broker, tidy: bool
    ) -> None:
        """Not a tick less, and then no more, whether or not there was a quiet moment."""
        publish(broker, *messages(2))
        short, long = claim(broker, limit=2)
        settle(broker, short, Ack(b"1", KEEP_MS))
        settle(broker, long, Ack(b"2", KEEP_MS * 2))
        asked = ids([short, long])
        kept = [Result(id, value) for id, value in zip(asked, (b"1", b"2"), strict=True)]
        gone = [Result(id, None, kept=False) for id in asked]
        for wait_ms, expected in (
            (KEEP_MS - harness.tick_ms, kept),
            (harness.tick_ms, [gone[0], kept[1]]),
            (KEEP_MS, gone),
        ):
            harness.let_pass(wait_ms)
            if tidy:
                broker.idle()
            assert broker.results(asked) == told(broker, *expected)

    @pytest.mark.parametrize("ack", [Ack(), Ack(b"1"), Ack(b"1", 0)])
    def test_rule_21_nothing_is_kept_of_what_asked_for_no_keeping(
        self, broker: Broker, ack: Ack
    ) -> None:
        """But that it is no longer there is known."""
        publish(broker, message())
        lease = claim_one(broker)
        settle(broker, lease, ack)
        gone = Result(lease.message.id, None, kept=False)
        assert broker.results([lease.message.id]) == told(broker, gone)

    def test_rule_21_what_has_not_ended_has_no_result(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Ready, scheduled, in flight, returned by any way, or with its lease run out."""
        due_ms = harness.clock.wall_ms() + KEEP_MS
        later, *others = publish(broker, message(due_ms=due_ms), *messages(5))
        asked = [later.id, *ids(others)]
        outcomes = (Release(), Release(1_000), Nack(0, ERROR), Nack(1_000, ERROR))
        for outcome in outcomes:
            assert broker.results(asked) == [None] * 6
            settle(broker, claim_one(broker), outcome)
        claim_all(broker)
        assert broker.results(asked) == [None] * 6
        harness.let_pass(VISIBILITY_MS)
        assert broker.results(asked) == [None] * 6

    def test_rule_21_results_are_answered_one_by_one(self, broker: Broker) -> None:
        """In order, also of what never was there, twice if asked twice."""
        publish(broker, *messages(2))
        first, second = claim(broker, limit=2)
        settle(broker, second, Ack(b"2", KEEP_MS))
        settle(broker, first, Ack(b"1", KEEP_MS))
        one, two = ids([first, second])
        stranger = new_id()
        ends = Result(two, b"2"), Result(stranger, None, kept=False), Result(one, b"1")
        assert broker.results([two, stranger, one, two]) == told(broker, *ends, ends[0])
        assert broker.results([]) == []

    def test_rule_21_a_dead_letter_is_a_result_without_a_value(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Whoever waits for the job learns why there will be none, for as long as it is kept."""
        publish(broker, message())
        lease = claim_one(broker)
        attempt = Attempt(lease.fence, harness.clock.wall_ms(), "failure", ERROR)
        settle(broker, lease, DeadLetter("max_attempts", ERROR, "failure"))
        harness.let_pass(KEEP_MS)
        broker.idle()
        kept = Result(lease.message.id, None, "max_attempts", ERROR, (attempt,))
        assert broker.results([lease.message.id]) == told(broker, kept)

    def test_rule_14_every_failed_lease_is_noted(self, harness: Harness, broker: Broker) -> None:
        """When, in what error, at which charge; what is given back or runs out leaves no note."""
        (whole,) = publish(broker, message())
        noted = []
        for number, charge in enumerate(CHARGES):
            settle(broker, claim_one(broker), Release())
            lease = claim_one(broker)
            error = Error("ValueError", f"'\ud800\0 {number}", "x" * 10_000)
            noted.append(Attempt(lease.fence, harness.clock.wall_ms(), charge, error))
            settle(broker, lease, Nack(0, error, charge))
            harness.let_pass(1_000)
        claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        late = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        noted.append(Attempt(late.fence, harness.clock.wall_ms(), "crash", ERROR))
        settle(broker, late, DeadLetter("max_crashes", ERROR, "crash"))
        kept = Result(whole.id, None, "max_crashes", ERROR, tuple(noted))
        for reopen in (lambda broker: broker, harness.reopen):
            one = reopen(broker)
            assert one.results([whole.id]) == told(one, kept)
            found = dead_letters(one)
            assert found is None or found[0].attempts == tuple(noted)

    def test_rule_14_the_last_attempts_are_kept(self, broker: Broker) -> None:
        """A job may fail a million times, and its history stays a page."""
        (whole,) = publish(broker, message())
        for number in range(ATTEMPTS_KEPT + 2):
            settle(broker, claim_one(broker), Nack(0, Error("E", str(number))))
        settle(broker, claim_one(broker), OUTCOMES["dead letter"])
        (kept,) = broker.results([whole.id])
        texts = [*map(str, range(3, ATTEMPTS_KEPT + 2)), ERROR.message]
        assert kept is None or [one.error.message for one in kept.attempts] == texts
        assert (kept is not None) == broker.capabilities.results

    def test_rule_14_a_stale_failure_leaves_no_note(self, harness: Harness, broker: Broker) -> None:
        """It is not how that lease ended: it ran out."""
        (whole,) = publish(broker, message())
        old = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        new = claim_one(broker)
        settle(broker, old, Nack(0, ERROR))
        noted = Attempt(new.fence, harness.clock.wall_ms(), "nothing", ERROR)
        settle(broker, new, OUTCOMES["dead letter"])
        kept = Result(whole.id, None, "max_attempts", ERROR, (noted,))
        assert broker.results([whole.id]) == told(broker, kept)

    def test_rule_14_the_history_goes_with_the_message(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """A later message of the same id has a history of its own."""
        (first,) = publish(broker, message())
        settle(broker, claim_one(broker), Nack(0, ERROR, "crash"))
        settle(broker, claim_one(broker), Ack())
        if capabilities.dedupe_window_seconds:
            assert broker.publish([first]) == [Duplicate(first.id)]
            return
        publish(broker, first)
        noted = Attempt(1, harness.clock.wall_ms(), "nothing", ERROR)
        settle(broker, claim_one(broker), OUTCOMES["dead letter"])
        kept = Result(first.id, None, "max_attempts", ERROR, (noted,))
        assert broker.results([first.id]) == told(broker, kept)

    def test_rule_21_what_is_there_outweighs_the_result_of_an_earlier_life(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """An id that is published anew, once its message is gone, is asked about as it is now.

        Within a window it has no second life, and the result of the first one stays.
        """
        (first,) = publish(broker, message())
        settle(broker, claim_one(broker), Ack(b"1", KEEP_MS))
        if capabilities.dedupe_window_seconds:
            assert broker.publish([first]) == [Duplicate(first.id)]
            assert broker.results([first.id]) == told(broker, Result(first.id, b"1"))
            return
        publish(broker, first)
        assert broker.results([first.id]) == [None]
        noted = Attempt(1, harness.clock.wall_ms(), "nothing", ERROR)
        settle(broker, claim_one(broker), OUTCOMES["dead letter"])
        now = Result(first.id, None, "max_attempts", ERROR, (noted,))
        assert broker.results([first.id]) == told(broker, now)

    def test_rule_21_a_late_result_is_kept_and_a_stale_one_is_not(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Law 2 holds for results too."""
        publish(broker, message())
        old = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        new = claim_one(broker)
        settle(broker, old, Ack(b"stale", KEEP_MS))
        assert broker.results(ids([new])) == [None]
        harness.let_pass(VISIBILITY_MS)
        assert settle(broker, new, Ack(b"late", KEEP_MS)) == late(broker)
        kept = Result(new.message.id, b"late") if broker.capabilities.native_fence else None
        assert broker.results(ids([new])) == told(broker, kept)

    def test_rule_01_a_store_that_is_reopened_has_everything(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Ready, scheduled, in flight, dead, and results."""
        assert broker.created
        due_ms = harness.clock.wall_ms() + KEEP_MS
        publish(broker, *messages(4), message(due_ms=due_ms))
        done, dead, held = claim(broker, limit=3)
        settle(broker, done, Ack(b"1", KEEP_MS * 2))
        settle(broker, dead, OUTCOMES["dead letter"])
        broker = harness.reopen(broker)
        assert not broker.created
        if capabilities.leases_outlive:
            assert len(claim_all(broker)) == 1
        else:
            _, held = sorted(claim_all(broker), key=attrgetter("lost"))
            assert held.lost == 1
        assert settle(broker, held, Release()) == Applied()
        harness.let_pass(KEEP_MS)
        assert len(claim_all(broker)) == 3
        known = [result is not None for result in broker.results(ids([done, dead]))]
        assert known == [capabilities.results] * 2

    def test_closing_twice_is_harmless(self, broker: Broker) -> None:
        """Also when it waited on its bell."""
        broker.bell()
        claim_all(broker)
        broker.close()
        broker.close()

    @pytest.mark.parametrize("delay_ms", [-1, -(2**40), MAX_DURATION_MS + 1, 2**70])
    @pytest.mark.parametrize("kind", [Release, Nack, Ack])
    def test_an_absurd_duration_of_an_outcome_stops_nobody(
        self, broker: Broker, kind: type[Outcome], delay_ms: int
    ) -> None:
        """It is taken as the nearest that can be: nothing is lost, its batch is settled."""
        publish(broker, *messages(2))
        absurd, plain = claim(broker, limit=2)
        outcomes: dict[type[Outcome], Outcome] = {
            Release: Release(delay_ms),
            Nack: Nack(delay_ms, ERROR),
            Ack: Ack(b"1", delay_ms),
        }
        batch = [Settlement(absurd, outcomes[kind]), Settlement(plain, Ack())]
        assert broker.settle(batch) == [Applied(), Applied()]
        at_once = kind is not Ack and delay_ms < 0
        assert ids(claim_all(broker)) == (ids([absurd]) if at_once else [])

    @pytest.mark.parametrize("state", ["ready", "scheduled", "in flight", "extended", "dead"])
    def test_rule_12_quiet_moments_move_nothing(
        self, harness: Harness, broker: Broker, state: str
    ) -> None:
        """Tidying up touches no message that somebody holds or waits for."""
        due_ms = harness.clock.wall_ms() + KEEP_MS if state == "scheduled" else 0
        publish(broker, message(due_ms=due_ms))
        lease = claim_one(broker) if due_ms == 0 else None
        if lease is not None and state in ("ready", "dead"):
            outcome = Release() if state == "ready" else OUTCOMES["dead letter"]
            settle(broker, lease, outcome)
        for _ in range(4):
            harness.let_pass(VISIBILITY_MS // 3)
            if lease is not None and state == "extended":
                broker.extend([lease])
            broker.idle()
        claimed = len(claim_all(broker))
        assert claimed == (1 if state in ("ready", "in flight") else 0)
        if lease is not None and state == "extended":
            assert settle(broker, lease, Ack()) == Applied()

    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_rule_16_a_settlement_that_is_cut_short_is_whole_or_nothing(
        self, harness: Harness, broker: Broker, outcome: str
    ) -> None:
        """No moment in both places or in neither: the same settlement is then still possible."""
        publish(broker, message())
        lease = claim_one(broker)
        keep = Ack(b"1", KEEP_MS) if outcome == "ack" else OUTCOMES[outcome]

        def still_held() -> None:
            assert broker.extend([lease]) == [Held(VISIBILITY_MS / 1000)]
            assert broker.results(ids([lease])) == [None]
            assert claim_all(broker) == []
            assert not dead_letters(broker)

        self.cut_short(harness, lambda: broker.settle([Settlement(lease, keep)]), still_held)
        if (dead := dead_letters(broker)) is not None:
            assert [len(one.attempts) for one in dead] == [1] * (outcome == "dead letter")
        assert len(claim_all(broker)) == (outcome in ("nack", "release"))

    def test_rule_01_a_publish_that_is_cut_short_stored_all_or_nothing(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """And can be repeated."""
        batch = messages(3)

        def nothing_there() -> None:
            assert not capabilities.atomic_batches or claim_all(broker) == []

        self.cut_short(harness, lambda: broker.publish(batch), nothing_there)
        assert in_order(broker, ids(claim_all(broker))) == in_order(broker, ids(batch))

    def test_rule_08_a_claim_that_is_cut_short_granted_nothing(
        self, harness: Harness, broker: Broker
    ) -> None:
        """What no holder knows of would lie hidden for a whole visibility timeout."""
        published = publish(broker, *messages(3))
        leases = []

        def take() -> None:
            leases.extend(claim(broker, limit=3))

        self.cut_short(harness, take, lambda: None)
        assert in_order(broker, ids(leases)) == in_order(broker, ids(published))
        assert [lease.lost for lease in leases] == [0, 0, 0]
