"""Cases of looking at single jobs: rules 12 and 33 of the contract (G13).

Owns: that a person sees each job where a claim would find it, once, and in its order.
Must never: know which broker it tests.
Called by: pytest, through `BrokerConformance`.
"""

import pytest

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import Applied, Broker, Stored
from dibs.message import Ack, Attempt, DeadLetter, JobView, Message, Nack, Release
from dibs.states import State
from dibs.testing.conformance.cases import Cases, browses, listed
from dibs.testing.harness import Harness
from dibs.testing.making import (
    ERROR,
    OUTCOMES,
    VISIBILITY_MS,
    claim,
    claim_one,
    ids,
    message,
    messages,
    new_id,
    publish,
    settle,
)

BROWSED = (State.READY, State.SCHEDULED, State.IN_FLIGHT, State.DEAD)


def one_of_each(harness: Harness, broker: Broker) -> dict[State, Message]:
    """Publish a message for each state, and bring it there."""
    later = message(due_ms=harness.clock.wall_ms() + 60_000)
    dead, held, ready, scheduled = publish(broker, *messages(3), later)
    settle(broker, claim_one(broker), OUTCOMES["dead letter"])
    claim_one(broker)
    return dict(zip(BROWSED, (ready, scheduled, held, dead), strict=True))


def see(broker: Broker, id: bytes) -> JobView:
    """Look one job up that must be there."""
    found = broker.inspector().job(id)
    assert found is not None
    return found


class Looking(Cases):
    """What a person is shown of single jobs."""

    def test_rule_33_a_job_is_shown_from_publish_to_end(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Where it is, since when or until when, its fence and its counters."""
        if not browses(broker):
            return
        now_ms = harness.clock.wall_ms()
        (whole,) = publish(broker, message(due_ms=now_ms + 2_000, headers={"a": "é"}))
        assert see(broker, whole.id) == JobView(
            whole, State.SCHEDULED, 0, 0, 0, 0, None, now_ms + 2_000
        )
        harness.let_pass(3_000)
        assert see(broker, whole.id) == JobView(whole, State.READY, 0, 0, 0, 0, now_ms + 2_000)
        lease = claim_one(broker)
        until_ms = now_ms + 3_000 + VISIBILITY_MS
        assert see(broker, whole.id) == JobView(whole, State.IN_FLIGHT, 1, 0, 0, 0, None, until_ms)
        settle(broker, lease, Nack(5_000, ERROR))
        attempts: tuple[Attempt, ...] = (Attempt(1, now_ms + 3_000, "failure", ERROR),)
        assert see(broker, whole.id) == JobView(
            whole, State.SCHEDULED, 1, 1, 0, 0, None, now_ms + 8_000, attempts=attempts
        )
        harness.let_pass(5_000)
        lease = claim_one(broker)
        died_ms = harness.clock.wall_ms()
        settle(broker, lease, DeadLetter("max_attempts", ERROR, "failure"))
        attempts = (*attempts, Attempt(2, died_ms, "failure", ERROR))
        why = ("max_attempts", ERROR, attempts)
        dead = JobView(whole, State.DEAD, 2, 2, 0, 0, died_ms, None, *why)
        assert see(broker, whole.id) == dead
        assert see(harness.reopen(broker), whole.id) == dead

    def test_rule_33_a_lease_that_ran_out_is_shown_as_ready(
        self, harness: Harness, broker: Broker
    ) -> None:
        """As it is counted; looking neither counts the loss nor takes the holder's chance."""
        if not browses(broker):
            return
        (whole,) = publish(broker, message())
        lease = claim_one(broker)
        harness.let_pass(VISIBILITY_MS)
        found = see(broker, whole.id)
        assert (found.state, found.fence, found.lost) == (State.READY, 1, 0)
        assert listed(broker, State.READY) == [found]
        assert listed(broker, State.IN_FLIGHT) == []
        assert settle(broker, lease, Ack()) == Applied(late=True)

    def test_rule_33_a_job_waits_since_it_was_given_back_whenever_it_was_due(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Also where the clock was set back before its due time, which is over all the same."""
        if not (browses(broker) and harness.wall_steps):
            return
        due_ms = harness.clock.wall_ms() + 1_000
        (whole,) = publish(broker, message(due_ms=due_ms))
        harness.let_pass(1_000)
        assert see(broker, whole.id).since_ms == due_ms
        lease = claim_one(broker)
        harness.step_wall(-60_000)
        settle(broker, lease, Release(0))
        assert see(broker, whole.id).since_ms == harness.clock.wall_ms()
        harness.let_pass(3_000)
        (counts,) = broker.inspector().queues()
        assert counts.oldest_ready_seconds == 3.0

    def test_rule_33_what_is_gone_or_never_was_is_shown_as_nothing(self, broker: Broker) -> None:
        """Not as an error: a person may look a moment too late."""
        if not browses(broker):
            return
        (done,) = publish(broker, message())
        settle(broker, claim_one(broker), Ack())
        assert broker.inspector().job(done.id) is None
        assert broker.inspector().job(new_id()) is None

    def test_rule_33_each_listing_has_the_jobs_of_its_state(
        self, harness: Harness, broker: Broker
    ) -> None:
        """Each job in one listing, and shown there as it is shown alone."""
        if not browses(broker):
            return
        for state, whole in one_of_each(harness, broker).items():
            assert listed(broker, state) == [see(broker, whole.id)]
            assert listed(broker, state)[0].state is state

    def test_rule_33_what_fell_due_is_listed_as_ready_before_a_claim_met_it(
        self, harness: Harness, broker: Broker
    ) -> None:
        """In its place among the others: by priority, then in publish order."""
        if not browses(broker):
            return
        due_ms = harness.clock.wall_ms() + VISIBILITY_MS
        held, later, ready = publish(broker, message(), message(due_ms=due_ms), message())
        assert ids([claim_one(broker)]) == [held.id]
        harness.let_pass(VISIBILITY_MS)
        expected = [held.id, later.id, ready.id]
        assert [view.message.id for view in listed(broker, State.READY)] == expected
        assert [view.message.id for view in listed(broker, State.READY, size=1)] == expected
        assert listed(broker, State.SCHEDULED) == []

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_rule_33_the_ready_are_listed_in_the_order_of_claims(
        self, broker: Broker, capabilities: Capabilities, size: int
    ) -> None:
        """By priority, then in publish order, however long a page is."""
        if not browses(broker):
            return
        high = 5 if capabilities.priorities else 0
        publish(broker, *messages(3), *messages(3, priority=high), message("other"))
        shown = [view.message for view in listed(broker, State.READY, "photos", size)]
        assert shown == [lease.message for lease in claim(broker, limit=6)]

    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_rule_33_the_scheduled_are_listed_by_due_time(
        self, harness: Harness, broker: Broker, size: int
    ) -> None:
        """Also those that were given back with a delay, and several of one moment."""
        if not browses(broker):
            return
        now_ms = harness.clock.wall_ms()
        late, *same = publish(
            broker, message(due_ms=now_ms + 9_000), *messages(3, due_ms=now_ms + 4_000)
        )
        (back,) = publish(broker, message())
        settle(broker, claim_one(broker), Release(6_000))
        expected = [*ids(same), back.id, late.id]
        assert [view.message.id for view in listed(broker, State.SCHEDULED, None, size)] == expected

    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_rule_33_those_in_flight_are_listed_in_publish_order(
        self, harness: Harness, broker: Broker, size: int
    ) -> None:
        """Whenever they were claimed or renewed."""
        if not browses(broker):
            return
        published = publish(broker, *messages(5))
        leases = claim(broker, limit=3)
        harness.let_pass(1_000)
        leases += claim(broker, limit=2)
        broker.extend(leases[:1])
        shown = [view.message.id for view in listed(broker, State.IN_FLIGHT, "photos", size)]
        assert shown == ids(published)

    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_rule_33_the_dead_are_listed_newest_first(
        self, harness: Harness, broker: Broker, size: int
    ) -> None:
        """Each page goes on where the one before ended."""
        if not browses(broker):
            return
        died = publish(broker, *messages(5))
        for _ in died:
            harness.let_pass(1_000)
            settle(broker, claim_one(broker), OUTCOMES["dead letter"])
        shown = [view.message.id for view in listed(broker, State.DEAD, "photos", size)]
        assert shown == ids(reversed(died))

    @pytest.mark.parametrize("state", BROWSED)
    def test_rule_33_a_listing_is_of_one_queue_or_of_all(
        self, harness: Harness, broker: Broker, state: State
    ) -> None:
        """Of a queue that nobody knows it is empty."""
        if not browses(broker):
            return
        due_ms = harness.clock.wall_ms() + 60_000 if state is State.SCHEDULED else 0
        published = [message(queue, due_ms=due_ms) for queue in "abcabc"]
        publish(broker, *published)
        if state in (State.IN_FLIGHT, State.DEAD):
            leases = claim(broker, "a", "b", "c", limit=6)
            for lease in leases:
                if state is State.DEAD:
                    settle(broker, lease, OUTCOMES["dead letter"])
        for queue in "abc":
            shown = listed(broker, state, queue, size=1)
            wanted = {one.id for one in published if one.queue == queue}
            assert {view.message.id for view in shown} == wanted
            assert len(shown) == 2
        everything = [view.message.id for view in listed(broker, state, size=1)]
        assert sorted(everything) == sorted(ids(published))
        assert listed(broker, state, "never-heard-of") == []
        assert broker.inspector().jobs(None, state, 0).jobs == []

    @pytest.mark.parametrize("state", BROWSED)
    def test_rule_33_what_lies_still_is_listed_once_while_others_move(
        self, harness: Harness, broker: Broker, state: State
    ) -> None:
        """The last of a page may be gone when the next is asked for."""
        if not browses(broker):
            return
        due_ms = harness.clock.wall_ms() + 60_000 if state is State.SCHEDULED else 0
        published = publish(broker, *messages(4, due_ms=due_ms))
        leases = claim(broker, limit=4) if state in (State.IN_FLIGHT, State.DEAD) else []
        if state is State.DEAD:
            for lease in leases:
                settle(broker, lease, OUTCOMES["dead letter"])
        inspector = broker.inspector()
        first = inspector.jobs(None, state, 2)
        gone = [view.message.id for view in first.jobs]
        if state is State.DEAD:
            assert inspector.discard(gone) == 2
        elif state is State.IN_FLIGHT:
            assert settle(broker, leases[0], Ack()) == settle(broker, leases[1], Ack()) == Applied()
        elif state is State.READY:
            claim(broker, limit=2)
        else:
            assert broker.publish(messages(1)) == [Stored()]
        second = inspector.jobs(None, state, 2, first.next)
        shown = [*gone, *(view.message.id for view in second.jobs)]
        assert sorted(shown) == sorted(ids(published))
