"""What lies in a memory store, for people, and what they do about it.

Must never: move a message but by the table of states, or without the store's lock.
Called by: `MemoryBroker`.
"""

import json
from collections import Counter
from collections.abc import Sequence

from dibs.brokers import checks, contract
from dibs.brokers.memory.store import CAPABILITIES, Entry, MemoryStore
from dibs.clock import Clock
from dibs.message import JobView, QueueCounts
from dibs.states import Event, State

Now = tuple[int, int]
Place = tuple[int | str, ...]


class MemoryInspector(contract.Inspector):
    """Shows what a claim at this moment would find."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def queues(self) -> list[QueueCounts]:
        """Return the counts of every queue, by name."""
        with self._store.lock:
            now = self._now()
            return [self._counts(queue, now) for queue in sorted(self._store.queues)]

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> contract.Page:
        """Sort all there is, and cut the page out; a place is what it is sorted by."""
        with self._store.lock:
            now = self._now()
            entries = (self._store.dead if state is State.DEAD else self._store.entries).values()
            mine = [entry for entry in entries if queue in (None, entry.message.queue)]
            shown = [(_place(entry, state), _view(entry, now)) for entry in mine]
        start: Place = () if after is None else tuple(json.loads(after))
        rest = [one for one in shown if one[1].state is state and one[0] > start]
        page = sorted(rest, key=lambda one: one[0])[: max(limit, 0)]
        following = json.dumps(page[-1][0]) if 0 < len(page) < len(rest) else None
        return contract.Page([view for _, view in page], following)

    def job(self, id: bytes) -> JobView | None:
        """Return one job."""
        with self._store.lock:
            entry = self._store.entries.get(id) or self._store.dead.get(id)
            return _view(entry, self._now()) if entry else None

    def redrive(self, ids: Sequence[bytes]) -> list[contract.Answered]:
        """Send dead letters back and ring for them."""
        checks.how_many(len(ids), CAPABILITIES)
        with self._store.lock:
            wall_ms, _ = self._now()
            back: list[str] = []
            answers = [self._redriven(id, wall_ms, back) for id in ids]
            self._store.waiters.ring(back)
        return answers

    def discard(self, ids: Sequence[bytes]) -> int:
        """Remove dead letters."""
        checks.how_many(len(ids), CAPABILITIES)
        with self._store.lock:
            dead = [entry for id in ids if (entry := self._store.dead.pop(id, None)) is not None]
            for entry in dead:
                entry.move(Event.DISCARD)
        return len(dead)

    def purge(self, queue: str) -> int:
        """Remove what waits, once time has moved on what only time moves."""
        with self._store.lock:
            self._store.sweep(*self._now())
            entries = [e for e in self._store.entries.values() if e.message.queue == queue]
            waiting = [e for e in entries if e.state in (State.READY, State.SCHEDULED)]
            for entry in waiting:
                self._store.end(entry, Event.PURGE)
        return len(waiting)

    def pause(self, queue: str) -> None:
        """Let no claim find anything in `queue`."""
        checks.queue_names([queue])
        with self._store.lock:
            self._store.queues.setdefault(queue, [])
            self._store.paused.add(queue)

    def resume(self, queue: str) -> None:
        """Let claims find what is there, and wake one who waits for it."""
        with self._store.lock:
            self._store.paused.discard(queue)
            self._store.waiters.ring([queue])

    def _redriven(self, id: bytes, wall_ms: int, back: list[str]) -> contract.Answered:
        entry = self._store.dead.get(id)
        if entry is None:
            return contract.GONE
        key = entry.message.unique_key
        if key is not None and self._store.keys.setdefault(key, id) != id:
            return contract.Duplicate(self._store.keys[key])
        self._store.entries[id] = self._store.dead.pop(id)
        entry.failures = entry.crashes = entry.lost = 0
        entry.reason = entry.error = None
        entry.waiting_since_ms = wall_ms
        self._store.wait(entry, Event.REDRIVE)
        back.append(entry.message.queue)
        return contract.REDRIVEN

    def _counts(self, name: str, now: Now) -> QueueCounts:
        entries = (*self._store.entries.values(), *self._store.dead.values())
        views = [_view(entry, now) for entry in entries if entry.message.queue == name]
        by = Counter(view.state for view in views)
        since = [view.since_ms or 0 for view in views if view.state is State.READY]
        age = (now[0] - min(since)) / 1000 if since else None
        counts = (by[State.READY], by[State.SCHEDULED], by[State.IN_FLIGHT], by[State.DEAD])
        return QueueCounts(name, *counts, age, name in self._store.paused)

    def _now(self) -> Now:
        return self._clock.wall_ms(), self._clock.boot_ms()


def _place(entry: Entry, state: State) -> Place:
    """Return what the jobs of a state are ordered by; no two of them have the same."""
    if state is State.READY:
        return entry.message.queue, -entry.message.priority, entry.number
    if state is State.SCHEDULED:
        return entry.until_ms, entry.number
    if state is State.DEAD:
        return -entry.waiting_since_ms, -entry.number
    return (entry.number,)


def _view(entry: Entry, now: Now) -> JobView:
    """Return an entry as it is now, whether or not a claim has met that its time was over."""
    wall_ms, boot_ms = now
    ends: dict[State | None, int] = {State.IN_FLIGHT: boot_ms, State.SCHEDULED: wall_ms}
    left_ms = entry.until_ms - ends.get(entry.state, entry.until_ms)
    waiting = left_ms > 0
    lies_still = waiting or entry.state is State.DEAD
    state = entry.state if entry.state and lies_still else State.READY
    return JobView(
        entry.message,
        state,
        *entry.counters,
        since_ms=None if waiting else entry.waiting_since_ms,
        until_ms=wall_ms + left_ms if waiting else None,
        reason=entry.reason,
        error=entry.error,
        attempts=entry.attempts,
    )
