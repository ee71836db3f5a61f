"""Cases of what people do: redrive, discard and purge, rules 10, 12, 16 and 22 (G13).

Owns: that a person's move is as guarded, and as whole, as a worker's.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

from collections.abc import Callable

import pytest

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Applied, Broker, Duplicate, Gone, Held, Lost, Redriven, Stale
from dibs.errors import OptionError
from dibs.message import Ack, Lease, Message, Nack, Outcome
from dibs.states import State
from dibs.testing.conformance.cases import (
    Cases,
    browses,
    dead_letters,
    listed,
    no_longer_there,
)
from dibs.testing.conformance.counting import assert_counts
from dibs.testing.conformance.waiting import rung, waiter
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
    new_id,
    publish,
    settle,
)


def die(broker: Broker, *new: Message) -> list[Lease]:
    """Publish messages and give each up; return the leases that they died of."""
    publish(broker, *new)
    leases = claim(broker, *{one.queue for one in new}, limit=len(new))
    for lease in leases:
        assert settle(broker, lease, OUTCOMES["dead letter"]) == Applied()
    return leases


def redrive(broker: Broker, *dead: bytes) -> None:
    """Send back what must be sent back."""
    assert broker.inspector().redrive(dead) == [Redriven()] * len(dead)


class Mending(Cases):
    """What becomes of jobs when a person says so."""

    def test_rule_10_a_redriven_message_is_whole_and_has_fresh_budgets(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Its id, bytes, headers and key as published; failures, crashes and losses 0.

        Its history goes on.
        """
        if not browses(broker):
            return
        key = "only" if capabilities.unique_keys else None
        whole = message(args=b"\0\xff", headers={"a": "é"}, unique_key=key, due_ms=1)
        publish(broker, whole)
        settle(broker, claim_one(broker), Nack(0, ERROR, "crash"))
        claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        lease = claim_one(broker)
        assert counters(lease) == (0, 1, 1)
        settle(broker, lease, OUTCOMES["dead letter"])
        harness.let_pass(1_000)
        redrive(broker, whole.id)
        assert dead_letters(broker) == []
        assert broker.results([whole.id]) == [None]
        (view,) = listed(broker, State.READY)
        assert [noted.fence for noted in view.attempts] == [1, lease.fence]
        assert view.since_ms == harness.clock.wall_ms()
        assert_counts(broker, 1, 0, 0, 0)
        again = claim_one(harness.reopen(broker))
        assert again.message == whole
        assert counters(again) == (0, 0, 0)
        assert again.fence == lease.fence + 1

    def test_rule_09_the_leases_of_before_a_redrive_are_stale(self, broker: Broker) -> None:
        """While it is ready again, in flight again, and for the one who gave it up."""
        if not browses(broker):
            return
        (old,) = die(broker, message())
        redrive(broker, old.message.id)
        for outcome in OUTCOMES.values():
            assert settle(broker, old, outcome) == Stale()
        assert broker.extend([old]) == [Lost()]
        new = claim_one(broker)
        assert settle(broker, old, Ack()) == Stale()
        assert settle(broker, new, Ack()) == Applied()
        assert settle(broker, old, Ack()) == Gone()

    def test_rule_12_only_a_dead_letter_is_redriven(self, harness: Harness, broker: Broker) -> None:
        """Whatever else has that id is left as it is; so is one that was sent back already."""
        if not browses(broker):
            return
        later = message(due_ms=harness.clock.wall_ms() + 60_000)
        held, ready, scheduled = publish(broker, *messages(2), later)
        lease = claim_one(broker)
        (dead,) = die(broker, message("another"))
        asked = [held.id, dead.message.id, ready.id, dead.message.id, scheduled.id, new_id()]
        answers = broker.inspector().redrive(asked)
        assert answers == [Gone(), Redriven(), Gone(), Gone(), Gone(), Gone()]
        assert_counts(broker, 1, 1, 1, 0)
        assert broker.extend([lease]) == [Held(VISIBILITY_MS / 1000)]
        assert broker.inspector().redrive([]) == []

    def test_rule_05_a_redrive_is_refused_while_a_live_job_has_the_key(
        self, broker: Broker, capabilities: Capabilities
    ) -> None:
        """It names that job and changes nothing; once that job is gone, it goes through."""
        if not (browses(broker) and capabilities.unique_keys):
            return
        (first,) = die(broker, message(unique_key="only"))
        (second,) = die(broker, message(unique_key="only"))
        (live,) = publish(broker, message(unique_key="only"))
        dead = ids([first, second])
        before = dead_letters(broker)
        assert broker.inspector().redrive(dead) == [Duplicate(live.id)] * 2
        assert dead_letters(broker) == before
        settle(broker, claim_one(broker), Ack())
        assert broker.inspector().redrive(dead) == [Redriven(), Duplicate(first.message.id)]
        assert broker.publish([message(unique_key="only")]) == [Duplicate(first.message.id)]
        assert [dead.message for dead in dead_letters(broker) or ()] == [second.message]

    def test_a_redriven_message_keeps_its_place(self, broker: Broker) -> None:
        """It was published before the others, and is claimed before them."""
        if not browses(broker):
            return
        (dead,) = die(broker, message())
        others = publish(broker, *messages(2))
        redrive(broker, dead.message.id)
        assert ids(claim_all(broker)) == [dead.message.id, *ids(others)]

    def test_rule_24_a_redrive_rings(self, harness: Harness, broker: Broker) -> None:
        """It is as ready as a new one."""
        if not browses(broker):
            return
        (dead,) = die(broker, message())
        waiting = waiter(harness)
        redrive(broker, dead.message.id)
        assert rung(waiting) == [waiting]

    def test_rule_15_a_redriven_message_may_die_again(
        self, harness: Harness, broker: Broker
    ) -> None:
        """It is then the newest, with the counters of its new life."""
        if not browses(broker):
            return
        first, second = ids(die(broker, *messages(2)))
        redrive(broker, first)
        harness.let_pass(1_000)
        lease = claim_one(broker)
        settle(broker, lease, OUTCOMES["dead letter"])
        shown = [(dead.message.id, dead.fence) for dead in dead_letters(broker) or ()]
        assert shown == [(first, 2), (second, 1)]

    def test_rule_12_only_dead_letters_are_discarded(
        self, harness: Harness, broker: Broker
    ) -> None:
        """For good, and counted; nothing else is touched by it."""
        if not browses(broker):
            return
        gone, kept = ids(die(broker, *messages(2)))
        later = message(due_ms=harness.clock.wall_ms() + 60_000)
        _, ready, scheduled = publish(broker, *messages(2), later)
        held = claim_one(broker)
        asked = [gone, gone, held.message.id, ready.id, scheduled.id, new_id()]
        assert broker.inspector().discard(asked) == 1
        assert broker.inspector().discard(asked) == 0
        assert broker.inspector().job(gone) is None
        assert broker.inspector().redrive([gone]) == [Gone()]
        assert [view.message.id for view in listed(broker, State.DEAD)] == [kept]
        assert_counts(broker, 1, 1, 1, 1)
        assert settle(broker, held, Ack()) == Applied()

    @pytest.mark.parametrize("verb", ["redrive", "discard"])
    def test_more_than_a_batch_is_refused(
        self, broker: Broker, capabilities: Capabilities, verb: str
    ) -> None:
        """Before anything is moved."""
        if not browses(broker):
            return
        (dead,) = die(broker, message())
        many = [dead.message.id, *(bytes(16),) * capabilities.batch_limit]
        with pytest.raises(OptionError, match="at most"):
            getattr(broker.inspector(), verb)(many)
        assert [view.message.id for view in listed(broker, State.DEAD)] == ids([dead])

    def test_rule_22_a_purge_removes_what_waits_and_says_how_much(
        self, harness: Harness, broker: Broker, capabilities: Capabilities
    ) -> None:
        """Ready and scheduled, of this queue alone; not what is held, not the dead.

        Where a purge cannot reach all that is scheduled, that stays, and is not counted.
        """
        key = "only" if capabilities.unique_keys else None
        due_ms = harness.clock.wall_ms() + 60_000
        publish(broker, *messages(5), message(due_ms=due_ms, unique_key=key))
        held, dead, back = claim(broker, limit=3)
        settle(broker, dead, OUTCOMES["dead letter"])
        settle(broker, back, Nack(60_000, ERROR))
        publish(broker, *messages(3, "another"), message("another", due_ms=due_ms))
        scheduled = 2 if capabilities.purges_scheduled else 0
        purged = broker.inspector().purge("photos")
        assert 2 + scheduled <= purged <= 4
        assert_counts(broker, 0, 2 - scheduled, 1, 1)
        if scheduled:
            publish(broker, message(unique_key=key))
            assert len(claim_all(broker)) == 1
        assert broker.extend([held]) == [Held(VISIBILITY_MS / 1000)]
        assert settle(broker, held, Ack()) == Applied()
        harness.let_pass(60_000)
        assert len(claim_all(broker, "another")) == 4
        assert broker.inspector().purge("never-heard-of") == 0

    def test_rule_22_what_fell_due_or_ran_out_is_purged_as_it_is_counted(
        self, harness: Harness, broker: Broker
    ) -> None:
        """As ready; its late holder learns that it is gone."""
        due_ms = harness.clock.wall_ms() + VISIBILITY_MS
        publish(broker, message(), message(due_ms=due_ms))
        late = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        assert broker.inspector().purge("photos") == 2
        assert broker.inspector().purge("photos") == 0
        assert settle(broker, late, Ack()) in no_longer_there(broker)
        assert claim_all(broker) == []

    @pytest.mark.parametrize("outcome", OUTCOMES.values())
    def test_rule_22_what_was_in_flight_at_a_purge_ends_as_its_holder_says(
        self, broker: Broker, outcome: Outcome
    ) -> None:
        """A return comes back: it was not waiting when the queue was purged."""
        publish(broker, message())
        lease = claim_one(broker)
        assert broker.inspector().purge("photos") == 0
        assert settle(broker, lease, outcome) == Applied()
        returned = outcome in (OUTCOMES["nack"], OUTCOMES["release"])
        assert len(claim_all(broker)) == returned

    @pytest.mark.parametrize("verb", ["redrive", "discard", "purge", "pause", "resume"])
    def test_rule_16_a_persons_move_that_is_cut_short_is_whole_or_nothing(
        self, harness: Harness, broker: Broker, verb: str
    ) -> None:
        """And can be made again."""
        if not browses(broker):
            return
        dead = ids(die(broker, *messages(2)))
        publish(broker, message())
        inspector = broker.inspector()
        if verb == "resume":
            inspector.pause("photos")
        calls: dict[str, Callable[[], object]] = {
            "redrive": lambda: inspector.redrive(dead),
            "discard": lambda: inspector.discard(dead),
            "purge": lambda: inspector.purge("photos"),
            "pause": lambda: inspector.pause("photos"),
            "resume": lambda: inspector.resume("photos"),
        }

        def as_before() -> None:
            assert_counts(broker, 1, 0, 0, 2)
            (found,) = inspector.queues()
            assert found.paused == (verb == "resume")

        self.cut_short(harness, calls[verb], as_before)
        left = {"redrive": (3, 0), "discard": (1, 0), "purge": (0, 2)}.get(verb, (1, 2))
        assert_counts(broker, left[0], 0, 0, left[1])
