"""Any broker beside the memory broker, step by step, as hypothesis pleases.

Owns: the state machine, and what must be equal at every step.
Must never: be imported by `dibs.testing`, since it needs hypothesis.
Called by: tests, through a class that says how to open a broker:

    class MyMachine(BrokerMachine):
        def make_harness(self, folder: Path) -> Harness: ...

    TestMyMachine = MyMachine.TestCase

Leases stay in their bundle after they end, so that stale ones are used again on purpose. A claim of
several queues leaves the shares to the broker, within fairness; the reference then claims the same
number from each queue, and must be granted the same messages: where the broker promises no order,
those that it granted, which must be some that could be.

Where no store checks a fence, only the Broker object that holds a lease settles or extends it, for
no other knows whether it has ended; and not when it ran out and is nobody's: there the two differ
by right, and what `Gone` or `Stale` is told of an old one may depend on the time. Where a lease
does not outlive its Broker object, no such object is closed.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)
from msgspec import Struct
from msgspec.structs import replace

from dibs.brokers.contract import Broker, Claim, Gone, Held, Settled, Stale
from dibs.brokers.memory import MemoryBroker, MemoryStore
from dibs.message import (
    Ack,
    DeadLetter,
    DeadMessage,
    JobView,
    Lease,
    Message,
    Nack,
    Outcome,
    QueueCounts,
    Release,
    Settlement,
)
from dibs.states import State
from dibs.testing.harness import Harness
from dibs.testing.making import ERROR, ids, new_id

QUEUES = ["a", "b", "c"]
CLIENTS = 2
SECOND = 1_000
LONGEST_LEASE_MS = 30 * SECOND

Client = st.integers(0, CLIENTS - 1)
"""Which of the Broker objects on the one store makes the call."""

delays = st.sampled_from([0, 0, SECOND, 5 * SECOND, 60 * SECOND])
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Ack, st.sampled_from([None, b"1"]), st.sampled_from([0, 5 * SECOND, 60 * SECOND])),
    st.builds(Nack, delays, st.just(ERROR), st.sampled_from(["nothing", "failure", "crash"])),
    st.builds(Release, delays),
    st.builds(
        DeadLetter,
        st.sampled_from(["max_attempts", "rejected"]),
        st.just(ERROR),
        st.sampled_from(["nothing", "failure", "crash"]),
    ),
)


class Draft(Struct, frozen=True):
    """A message to be, less what depends on the moment and on what was published before."""

    queue: str
    priority: int
    due_in_ms: int | None
    visibility_timeout_ms: int
    unique_key: str | None
    args: bytes


drafts = st.builds(
    Draft,
    queue=st.sampled_from(QUEUES),
    priority=st.sampled_from([0, 0, 0, 5, 9]),
    due_in_ms=st.sampled_from([None, None, None, -SECOND, SECOND, 5 * SECOND, 60 * SECOND]),
    visibility_timeout_ms=st.sampled_from([SECOND, 5 * SECOND, LONGEST_LEASE_MS]),
    unique_key=st.sampled_from([None, None, "k", "l"]),
    args=st.binary(max_size=8),
)


# A sequence that draws from a bundle with nothing in it is thrown away, whatever it did before.
some_published = precondition(lambda machine: machine.published)
some_granted = precondition(lambda machine: machine.has_granted)


class Granted(Struct, frozen=True):
    """One grant, as each of the two brokers told it, and the object that holds it."""

    theirs: Lease
    reference: Lease
    holder: Broker


class BrokerMachine(RuleBasedStateMachine):
    """The broker under test and the reference, given the same calls at the same moments."""

    messages = Bundle("messages")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="dibs-machine-")
        self._harness = self.make_harness(Path(self._folder.name))
        self._theirs = [self._harness.open() for _ in range(CLIENTS)]
        self._store = MemoryStore("reference")
        self._reference = MemoryBroker(self._store, self._harness.clock, b"", True)
        self.published: set[bytes] = set()
        self.has_granted = False
        for broker in (self._theirs[0], self._reference):
            broker.declare(QUEUES)

    def make_harness(self, folder: Path) -> Harness:
        """Return a new, empty store; `folder` is an empty folder that it may use."""
        raise NotImplementedError("say how to open your broker: see dibs.testing.Harness")

    def teardown(self) -> None:
        """Leave nothing behind."""
        self._harness.close()
        self._reference.close()
        self._folder.cleanup()

    @rule(target=messages, by=Client, batch=st.lists(drafts, min_size=1, max_size=6))
    def publish(self, by: int, batch: list[Draft]) -> Any:
        """Publish new ids."""
        new = [self._message(new_id(), draft) for draft in batch]
        self._publish(by, new)
        return multiple(*new)

    @some_published
    @rule(by=Client, old=st.lists(messages, min_size=1, max_size=3), draft=drafts)
    def publish_again(self, by: int, old: list[Message], draft: Draft) -> None:
        """Publish ids that were published before, once with other contents."""
        capabilities = self._theirs[by].capabilities
        if capabilities.dedupe_window_seconds == 0 and capabilities.unique_ids:
            self._publish(by, [*old, self._message(old[0].id, draft)])

    @rule(
        target=leases,
        by=Client,
        queues=st.lists(st.sampled_from(QUEUES), min_size=1, max_size=3, unique=True),
        limit=st.sampled_from([0, 1, 2, 3, 8, 8, 8]),
    )
    def claim(self, by: int, queues: list[str], limit: int) -> Any:
        """Claim some."""
        return self._claim(by, queues, limit)

    @rule(target=leases, by=Client)
    def take_over(self, by: int) -> Any:
        """Let every lease run out, and grant all anew: the old ones are stale from here on."""
        self._harness.let_pass(LONGEST_LEASE_MS)
        return self._claim(by, QUEUES, 100)

    @some_granted
    @rule(by=Client, ends=st.lists(st.tuples(leases, outcomes), min_size=1, max_size=5))
    def settle(self, by: int, ends: list[tuple[Granted, Outcome]]) -> None:
        """Settle leases, current and stale, some of them twice."""
        ends = [(granted, outcome) for granted, outcome in ends if self._is_clear(granted, by)]
        theirs = [Settlement(granted.theirs, outcome) for granted, outcome in ends]
        reference = [Settlement(granted.reference, outcome) for granted, outcome in ends]
        answers = self._told_apart(self._theirs[by].settle(theirs))
        assert answers == self._told_apart(self._reference.settle(reference))

    @some_granted
    @rule(by=Client, held=st.lists(leases, min_size=1, max_size=5))
    def extend(self, by: int, held: list[Granted]) -> None:
        """Extend leases, current and stale."""
        held = [granted for granted in held if self._is_clear(granted, by)]
        answers = self._theirs[by].extend([one.theirs for one in held])
        expected = self._reference.extend([one.reference for one in held])
        assert [type(answer) for answer in answers] == [type(answer) for answer in expected]
        for answer, wanted in zip(answers, expected, strict=True):
            if isinstance(answer, Held) and isinstance(wanted, Held):
                assert abs(answer.seconds - wanted.seconds) * 1000 <= self._harness.tick_ms

    @some_published
    @rule(by=Client, which=st.lists(messages, min_size=1, max_size=4))
    def redrive(self, by: int, which: list[Message]) -> None:
        """Send messages back, whether they are dead or not."""
        if self._theirs[by].capabilities.browsing:
            answers = self._theirs[by].inspector().redrive(ids(which))
            assert answers == self._reference.inspector().redrive(ids(which))

    @some_published
    @rule(by=Client, which=st.lists(messages, min_size=1, max_size=2))
    def discard(self, by: int, which: list[Message]) -> None:
        """Remove messages for good, if they are dead."""
        if self._theirs[by].capabilities.browsing:
            removed = self._theirs[by].inspector().discard(ids(which))
            assert removed == self._reference.inspector().discard(ids(which))

    @rule(by=Client, queue=st.sampled_from(QUEUES))
    def purge(self, by: int, queue: str) -> None:
        """Empty a queue of what waits there."""
        if not self._theirs[by].capabilities.purges_scheduled:
            return
        purged = self._theirs[by].inspector().purge(queue)
        assert purged == self._reference.inspector().purge(queue)

    @rule(by=Client, queue=st.sampled_from(QUEUES), verb=st.sampled_from(["pause", "resume"]))
    def pause_or_resume(self, by: int, queue: str, verb: str) -> None:
        """Stop a queue, or let it go on."""
        for broker in (self._theirs[by], self._reference):
            getattr(broker.inspector(), verb)(queue)
        self._harness.let_pass(self._harness.pause_seen_ms)

    @rule(ms=st.sampled_from([1, SECOND - 1, SECOND, 5 * SECOND, 30 * SECOND, 120 * SECOND]))
    def let_pass(self, ms: int) -> None:
        """Time passes."""
        self._harness.let_pass(ms)

    @rule(ms=st.sampled_from([-60 * SECOND, -SECOND, -1, 1, SECOND, 60 * SECOND]))
    def step_wall(self, ms: int) -> None:
        """Somebody sets the wall clock.

        What has fallen due is ready for good once a claim has met it, and a result whose time is
        over is gone for good once it is tidied up, so both first meet all of it.
        """
        if self._harness.wall_steps and (ms > 0 or self._harness.due_for_good):
            for broker in (self._theirs[0], self._reference):
                broker.claim(["another"], 1)
                broker.idle()
            self._harness.step_wall(ms)

    @rule(which=Client)
    def reopen(self, which: int) -> None:
        """Close one Broker object and open another."""
        if self._theirs[which].capabilities.leases_outlive:
            self._theirs[which] = self._harness.reopen(self._theirs[which])

    @rule(which=Client)
    def quiet_moment(self, which: int) -> None:
        """Tidy up."""
        self._theirs[which].idle()
        self._reference.idle()

    @invariant()
    def the_same_counts(self) -> None:
        """Ready, scheduled, in flight and dead, of every queue."""
        if self._theirs[0].capabilities.exact_counts:
            assert _counted(self._theirs[0]) == _counted(self._reference)

    @invariant()
    def the_same_results(self) -> None:
        """Of every message that ever was."""
        if self._theirs[0].capabilities.results:
            known = sorted(self.published)
            assert self._theirs[-1].results(known) == self._reference.results(known)

    @invariant()
    def the_same_jobs(self) -> None:
        """In the same order; that of the dead is a matter of the clock that was stepped."""
        if self._theirs[0].capabilities.browsing:
            assert _dead(self._theirs[-1]) == _dead(self._reference)
            for state in (State.READY, State.SCHEDULED, State.IN_FLIGHT):
                assert _seen(self._theirs[-1], state) == _seen(self._reference, state)

    def _message(self, id: bytes, draft: Draft) -> Message:
        capabilities = self._theirs[0].capabilities
        due_ms = 0
        if draft.due_in_ms is not None:
            due_ms = self._harness.clock.wall_ms() + draft.due_in_ms
        return Message(
            id=id,
            queue=draft.queue,
            task="task",
            args=draft.args,
            due_ms=due_ms,
            priority=draft.priority if capabilities.priorities else 0,
            visibility_timeout_ms=draft.visibility_timeout_ms,
            unique_key=draft.unique_key if capabilities.unique_keys else None,
        )

    def _publish(self, by: int, batch: list[Message]) -> None:
        assert self._theirs[by].publish(batch) == self._reference.publish(batch)
        self.published |= set(ids(batch))

    def _claim(self, by: int, queues: list[str], limit: int) -> Any:
        """Compare who got what."""
        limit = min(limit, self._theirs[by].capabilities.batch_limit)
        found = self._theirs[by].claim(queues, limit)
        shares = Counter(lease.message.queue for lease in found.leases)
        assert set(shares) <= set(queues)
        self._check_fairness(queues, limit, shares)
        granted = []
        for queue in queues:
            theirs = [lease for lease in found.leases if lease.message.queue == queue]
            reference = self._granted_too(queue, theirs)
            assert [_told(lease) for lease in theirs] == [_told(one) for one in reference.leases]
            granted += [
                Granted(*pair, self._theirs[by])
                for pair in zip(theirs, reference.leases, strict=True)
            ]
        if limit > 0:
            self._check_next_in(found.next_in)
        self.has_granted |= bool(granted)
        return multiple(*granted)

    def _granted_too(self, queue: str, theirs: list[Lease]) -> Claim:
        """Let the reference claim as many; where there is no order, the very same messages."""
        if self._theirs[0].capabilities.ordered:
            return self._reference.claim([queue], len(theirs))
        self._reference.claim([], 0)  # it meets what is due
        granted, lying = ids(theirs), self._store.queues.get(queue, [])
        self._store.queues[queue] = sorted(p for p in lying if p[2].message.id in granted)
        claim = self._reference.claim([queue], len(theirs))
        self._store.queues[queue] = sorted(p for p in lying if p[2].message.id not in granted)
        by_id = {lease.message.id: lease for lease in claim.leases}
        return Claim([by_id[id] for id in granted], claim.next_in)

    def _is_clear(self, granted: Granted, by: int) -> bool:
        """Say whether what becomes of a lease is the same on both: see the top of this file."""
        if self._theirs[by].capabilities.native_fence:
            return True
        if granted.holder is not self._theirs[by]:
            return False
        self._reference.claim([], 0)  # it meets what is due
        entry = self._store.entries.get(granted.reference.message.id)
        return entry is None or not (entry.overdue and entry.fence == granted.reference.fence)

    def _told_apart(self, answers: list[Settled]) -> list[Settled]:
        """Return answers as far as this broker can be held to them."""
        if self._theirs[0].capabilities.native_fence:
            return answers
        return [Stale() if isinstance(answer, Gone) else answer for answer in answers]

    def _check_fairness(self, queues: list[str], limit: int, shares: Counter[str]) -> None:
        """Nothing that could be granted was held back, and nobody got two more than another.

        Where no store notes that something has fallen due, each message that is scheduled in a
        queue may have come too early, and used up one of the queue's turns.
        """
        found = {one.name: one for one in self._reference.inspector().queues()}
        ready = {name: 0 if one.paused else one.ready or 0 for name, one in found.items()}
        assert shares.total() == min(limit, sum(ready[queue] for queue in queues))
        for queue in queues:
            early = 0 if self._harness.due_for_good else found[queue].scheduled or 0
            if shares[queue] < ready[queue]:
                assert all(shares[other] - shares[queue] <= 1 + early for other in queues)

    def _check_next_in(self, next_in: float | None) -> None:
        """Whoever waits as long as it says, misses nothing."""
        wanted = self._reference.claim([], 0).next_in
        if wanted is None or not self._theirs[0].capabilities.tells_next:
            assert next_in is None
        else:
            assert next_in is not None
            assert 0 <= next_in * 1000 <= wanted * 1000 + self._harness.tick_ms


def _told(lease: Lease) -> tuple[Any, ...]:
    return lease.message, lease.fence, lease.failures, lease.crashes, lease.lost


def _counted(broker: Broker) -> list[tuple[int | None, ...]]:
    found: dict[str, QueueCounts] = {one.name: one for one in broker.inspector().queues()}
    chosen = [found[queue] for queue in QUEUES]
    return [(one.ready, one.scheduled, one.in_flight, one.dead, one.paused) for one in chosen]


def _seen(broker: Broker, state: State) -> list[JobView]:
    """Return the views of a state, in pages of two, less when the lease of one in flight ends."""
    found: list[JobView] = []
    for queue in QUEUES:
        page = broker.inspector().jobs(queue, state, 2)
        found += page.jobs
        while page.next is not None:
            page = broker.inspector().jobs(queue, state, 2, page.next)
            found += page.jobs
    return [replace(one, until_ms=None) if state is State.IN_FLIGHT else one for one in found]


def _dead(broker: Broker) -> list[DeadMessage]:
    return sorted(broker.inspector().dead(limit=1_000), key=lambda dead: dead.message.id)
