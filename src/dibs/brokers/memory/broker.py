"""The reference broker: the contract in its shortest form, in one process's memory.

Must never: hold a rule of its own; those are the store's.
Called by: whoever holds a `Broker`; made by `open_memory`.
"""

import itertools
import threading
from collections.abc import Sequence

from dibs.brokers import checks, contract
from dibs.brokers.memory.inspector import MemoryInspector
from dibs.brokers.memory.store import CAPABILITIES, MemoryStore
from dibs.clock import Clock
from dibs.message import Ack, DeadLetter, Lease, Message, Nack, Release, Result, Settlement
from dibs.wakepipe import WakePipe

_STORES: dict[str, "MemoryStore"] = {}
_STORES_LOCK = threading.Lock()


def open_memory(name: str, *, clock: Clock, worker_id: bytes) -> contract.Broker:
    """Open `memory://name`: one store for all who open that name in this process."""
    with _STORES_LOCK:
        created = name not in _STORES
        store = _STORES.setdefault(name, MemoryStore(name))
    return MemoryBroker(store, clock, worker_id, created)


class MemoryBroker(contract.Broker):
    """One thread's handle on a store."""

    capabilities = CAPABILITIES

    def __init__(self, store: MemoryStore, clock: Clock, worker_id: bytes, created: bool) -> None:
        self.url = f"memory://{store.name}"
        self.created = created
        self.worker_id = worker_id
        self._store = store
        self._clock = clock
        self._bell: WakePipe | None = None
        self._claims = itertools.count()

    def declare(self, queues: Sequence[str]) -> None:
        """Make `queues` known, all or none."""
        checks.queue_names(queues)
        with self._store.lock:
            self._store.queues |= {name: [] for name in queues if name not in self._store.queues}

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        """Store messages and ring for their queues."""
        checks.how_many(len(messages), CAPABILITIES)
        with self._store.lock:
            wall_ms = self._clock.wall_ms()
            answers = [self._store.publish(message, wall_ms) for message in messages]
            self._store.waiters.ring(message.queue for message in messages)
        return answers

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        """Grant what is ready; whoever leaves something ready wakes the next waiter."""
        start = next(self._claims) % max(len(queues), 1)
        turn = list(dict.fromkeys((*queues[start:], *queues[:start])))
        with self._store.lock:
            wall_ms, boot_ms = self._clock.wall_ms(), self._clock.boot_ms()
            self._store.sweep(wall_ms, boot_ms)
            leases = self._store.grant(turn, min(limit, CAPABILITIES.batch_limit), boot_ms)
            if self._bell is not None:
                self._store.waiters.arm(self._bell, turn if len(leases) < limit else [])
            self._store.waiters.ring(queue for queue in turn if self._store.has_ready(queue))
            return contract.Claim(leases, self._next_in(wall_ms, boot_ms))

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """End leases; ring for what came back, and for what came to an end."""
        with self._store.lock:
            now = self._clock.wall_ms(), self._clock.boot_ms()
            answers = [self._store.settle(one.lease, one.outcome, now) for one in settlements]
            back = [one for one in settlements if isinstance(one.outcome, Nack | Release)]
            self._store.waiters.ring(one.lease.message.queue for one in back)
            over = [one for one in settlements if isinstance(one.outcome, Ack | DeadLetter)]
            self._store.waiters.ring_ends({one.lease.message.id for one in over})
        return answers

    def extend(self, leases: Sequence[Lease]) -> list[contract.Extended]:
        """Renew leases."""
        with self._store.lock:
            return [self._store.extend(lease, self._clock.boot_ms()) for lease in leases]

    def bell(self) -> int:
        """Return this handle's own descriptor."""
        if self._bell is None:
            self._bell = WakePipe()
        return self._bell.fileno()

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Say how messages ended, and be rung for the others."""
        with self._store.lock:
            wall_ms = self._clock.wall_ms()
            answers = [self._store.result(id, wall_ms) for id in ids]
            if self._bell is not None:
                pairs = zip(ids, answers, strict=True)
                unfinished = [id for id, answer in pairs if answer is None]
                self._store.waiters.await_ends(self._bell, unfinished[: CAPABILITIES.batch_limit])
        return answers

    def inspector(self) -> MemoryInspector:
        """Return the slow door."""
        return MemoryInspector(self._store, self._clock)

    def idle(self) -> None:
        """Drop the results whose time is over."""
        with self._store.lock:
            wall_ms, results = self._clock.wall_ms(), self._store.results
            self._store.results = {id: kept for id, kept in results.items() if kept[0] > wall_ms}

    def close(self) -> None:
        """Stop waiting; the store and its leases stay."""
        with self._store.lock:
            if self._bell is not None:
                self._store.waiters.forget(self._bell)
                self._bell.close()
            self._bell = None

    def _next_in(self, wall_ms: int, boot_ms: int) -> float | None:
        due_ms, expiry_ms = self._store.scheduled.next_ms(), self._store.in_flight.next_ms()
        waits = ((due_ms, wall_ms), (expiry_ms, boot_ms))
        return min(((at - now) / 1000 for at, now in waits if at is not None), default=None)
