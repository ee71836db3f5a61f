"""The reference broker's store: every message of one name, and how each may move.

Owns: the semantics that every other broker is compared with; all moves go through `states.after`.
Must never: write to disk, cross a process, or be tuned at the cost of being obvious.
Called by: `MemoryBroker` and `MemoryInspector`, with the store's lock held.

Leases run on the boot clock, due times on the wall clock. What has fallen due stays ready even if
the wall clock steps back, because no move leads from ready to scheduled.
"""

import heapq
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace

from dibs.brokers import checks, contract
from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.ends import kept_under
from dibs.local.waiters import Waiters
from dibs.message import (
    Ack,
    Attempt,
    Charge,
    DeadLetter,
    Error,
    Lease,
    Message,
    Nack,
    Outcome,
    Reason,
    Release,
    Result,
)
from dibs.states import Event, State, after

CAPABILITIES = Capabilities(
    durability="D0",
    durability_note="in the memory of one process; gone when it ends",
    batch_limit=10_000,
    payload_limit=1_048_576,
    shared_between_processes=False,
)


@dataclass(slots=True)
class Entry:
    """A message and all that its broker knows of it.

    `number` is its place in publish order, and its receipt: an id may be published anew once its
    message is gone, a number never. `until_ms` is when its state ends by itself: the due time
    while scheduled, the expiry while in flight. `overdue`: ready because its lease ran out.
    `waiting_since_ms`: when it was to be had; when it died, if it has a `reason` and an `error`.
    """

    message: Message
    number: int
    waiting_since_ms: int
    state: State | None = None
    until_ms: int = 0
    overdue: bool = False
    fence: int = 0
    failures: int = 0
    crashes: int = 0
    lost: int = 0
    reason: Reason | None = None
    error: Error | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """In the order in which a lease and a view list them."""
        return self.fence, self.failures, self.crashes, self.lost

    def move(self, event: Event, charge: Charge = "nothing") -> None:
        """Change state as the table says, and count."""
        self.state = after(self.state, event)
        self.failures += charge == "failure"
        self.crashes += charge == "crash"

    def note(self, failed: Nack | DeadLetter, wall_ms: int) -> None:
        """Remember how a lease ended."""
        one = Attempt(self.fence, wall_ms, failed.charge, failed.error)
        self.attempts = (*self.attempts, one)[-contract.ATTEMPTS_KEPT :]


class Timers:
    """The entries of one state by when it ends by itself; an outdated item is dropped when met."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._heap: list[tuple[int, int, Entry]] = []

    def set(self, entry: Entry, until_ms: int) -> None:
        """Let the entry's state end at `until_ms`."""
        entry.until_ms = until_ms
        heapq.heappush(self._heap, (until_ms, entry.number, entry))

    def next_ms(self) -> int | None:
        """Return the earliest moment, or None."""
        while self._heap:
            at_ms, _, entry = self._heap[0]
            if entry.state is self._state and entry.until_ms == at_ms:
                return at_ms
            heapq.heappop(self._heap)
        return None

    def passed(self, now_ms: int) -> Iterator[Entry]:
        """Yield every entry whose moment has come; the caller moves it on."""
        while (at_ms := self.next_ms()) is not None and at_ms <= now_ms:
            yield heapq.heappop(self._heap)[2]


class MemoryStore:
    """Every message of one name, and their moves. Whoever calls a method holds `lock`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.entries: dict[bytes, Entry] = {}
        self.dead: dict[bytes, Entry] = {}
        self.results: dict[bytes, tuple[int, Result]] = {}
        self.queues: dict[str, list[tuple[int, int, Entry]]] = {}
        self.scheduled = Timers(State.SCHEDULED)
        self.in_flight = Timers(State.IN_FLIGHT)
        self.waiters = Waiters()
        self.paused: set[str] = set()
        self.keys: dict[str, bytes] = {}
        self._published = 0

    def publish(self, message: Message, wall_ms: int) -> contract.Published:
        """Store one message, unless its id or its key is taken."""
        if why := checks.refusal(message, CAPABILITIES):
            return contract.Refused(why)
        if message.id in self.entries or message.id in self.dead:
            return contract.Duplicate(message.id)
        if message.unique_key is not None:
            holder = self.keys.setdefault(message.unique_key, message.id)
            if holder != message.id:
                return contract.Duplicate(holder)
        self._published += 1
        entry = Entry(_own(message), self._published, max(wall_ms, message.due_ms))
        self.entries[message.id] = entry
        self.queues.setdefault(message.queue, [])
        self.wait(entry, Event.PUBLISH_LATER if message.due_ms > wall_ms else Event.PUBLISH)
        return contract.Stored()

    def sweep(self, wall_ms: int, boot_ms: int) -> None:
        """Move on what only time moves, in every queue."""
        for entry in self.in_flight.passed(boot_ms):
            entry.overdue = True
            self.wait(entry, Event.EXPIRE)
        for entry in self.scheduled.passed(wall_ms):
            self.wait(entry, Event.FALL_DUE)

    def grant(self, queues: Sequence[str], limit: int, boot_ms: int) -> list[Lease]:
        """Lease the first of each queue in turn, until `limit` or until all are empty."""
        leases: list[Lease] = []
        turn = deque(queues)
        while turn and len(leases) < limit:
            queue = turn.popleft()
            if self.has_ready(queue):
                leases.append(self._lease(heapq.heappop(self.queues[queue])[2], boot_ms))
                turn.append(queue)
        return leases

    def settle(self, lease: Lease, outcome: Outcome, now: tuple[int, int]) -> contract.Settled:
        """End a lease that is current, be it over its time or not."""
        wall_ms, boot_ms = now
        entry = self._held(lease)
        if not isinstance(entry, Entry):
            return entry
        expiry_ms = entry.until_ms
        if isinstance(outcome, Nack | DeadLetter):
            entry.note(outcome, wall_ms)
        match outcome:
            case Ack(result):
                self.end(entry, Event.ACK)
                for id, keep_ms in kept_under(lease.message.id, outcome):
                    self.results[id] = (wall_ms + keep_ms, Result(id, result))
            case Nack(delay_ms, _, charge):
                self._give_back(entry, wall_ms, delay_ms, charge)
            case Release(delay_ms):
                self._give_back(entry, wall_ms, delay_ms, "nothing")
            case DeadLetter(reason, error, charge):
                self.end(entry, Event.GIVE_UP, charge)
                entry.reason, entry.error, entry.waiting_since_ms = reason, error, wall_ms
                self.dead[entry.message.id] = entry
            case _:
                assert_never(outcome)
        return contract.Applied(late=expiry_ms <= boot_ms)

    def extend(self, lease: Lease, boot_ms: int) -> contract.Extended:
        """Renew a lease that is current, be it over its time or not."""
        entry = self._held(lease)
        if not isinstance(entry, Entry):
            return contract.Lost()
        until_ms = max(entry.until_ms, boot_ms + entry.message.visibility_timeout_ms)
        self.in_flight.set(entry, until_ms)
        return contract.Held((until_ms - boot_ms) / 1000)

    def result(self, id: bytes, wall_ms: int) -> Result | None:
        """Return how a message ended, None if it has not."""
        if id in self.entries:
            return None
        if dead := self.dead.get(id):
            return Result(id, None, dead.reason, dead.error, dead.attempts)
        nothing = Result(id, None, kept=False)
        until_ms, kept = self.results.get(id, (wall_ms, nothing))
        return kept if wall_ms < until_ms else nothing

    def has_ready(self, queue: str) -> bool:
        """Say whether `queue` has something to grant; a paused one has not."""
        ready = [] if queue in self.paused else self.queues.get(queue, [])
        while ready and ready[0][2].state is not State.READY:
            heapq.heappop(ready)  # it was revived, and lies elsewhere by now
        return bool(ready)

    def _held(self, lease: Lease) -> Entry | contract.Stale | contract.Gone:
        """Return what `lease` holds, in flight again if it had run out."""
        entry = self.entries.get(lease.message.id)
        if entry is None or entry.number != lease.receipt:
            return contract.Gone()
        if entry.fence == lease.fence and entry.overdue:
            entry.move(Event.REVIVE)
            entry.overdue = False
        current = (lease.fence, State.IN_FLIGHT)
        return entry if (entry.fence, entry.state) == current else contract.Stale()

    def _lease(self, entry: Entry, boot_ms: int) -> Lease:
        entry.move(Event.CLAIM)
        entry.fence += 1
        entry.lost += entry.overdue
        entry.overdue = False
        self.in_flight.set(entry, boot_ms + entry.message.visibility_timeout_ms)
        return Lease(_own(entry.message), *entry.counters, entry.until_ms, entry.number)

    def _give_back(self, entry: Entry, wall_ms: int, delay_ms: int, charge: Charge) -> None:
        entry.waiting_since_ms = wall_ms + min(max(delay_ms, 0), MAX_DURATION_MS)
        self.wait(entry, Event.RETURN_LATER if delay_ms > 0 else Event.RETURN, charge)

    def wait(self, entry: Entry, event: Event, charge: Charge = "nothing") -> None:
        """Move an entry to where it waits for its due time, or for a claim."""
        entry.move(event, charge)
        if entry.state is State.SCHEDULED:
            self.scheduled.set(entry, entry.waiting_since_ms)
        else:
            place = (-entry.message.priority, entry.number, entry)
            heapq.heappush(self.queues[entry.message.queue], place)

    def end(self, entry: Entry, event: Event, charge: Charge = "nothing") -> None:
        """Take an entry, and its unique key, out of what is live."""
        entry.move(event, charge)
        self.entries.pop(entry.message.id)
        self.keys.pop(entry.message.unique_key or "", None)


def _own(message: Message) -> Message:
    """Return a message that shares nothing which its publisher or a holder may change."""
    return replace(message, headers=dict(message.headers)) if message.headers else message
