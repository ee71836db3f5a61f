"""What this worker holds, and what is due: pure bookkeeping over time that is passed in.

Owns: the serial, the holder and the deadlines of every lease that is not settled yet.
Must never: read a clock or call a broker; the pump does both with what it is told here.
Called by: the pump, the upkeep and the crew.

Leases are kept by *batch*, those that one claim gave to one runner: they are renewed together, and
a lease costs one dictionary entry while a hundred thousand a second come and go. Deadlines are on
the monotonic clock, counted from before the claim left, so that ours are never later than the
broker's. `next_extend` and `next_look` are lower bounds, exact after the look that they ask for.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from msgspec import Struct

from dibs.message import Lease, Outcome, Settlement

WAITING = -1
"""The holder of a lease that waits in the pump for a runner of its own."""

_first = attrgetter("first")


class Batch(Struct, gc=False):
    """Leases with the serials `first` to `end` - 1, claimed together and given to one member.

    `heartbeat_seconds` is a third of the shortest of their visibility timeouts; `renewed_at` is
    when the claim, or the last request to extend them, left.
    """

    first: int
    end: int
    member: int
    heartbeat_seconds: float
    renewed_at: float

    @property
    def extend_at(self) -> float:
        """When to renew them."""
        return self.renewed_at + self.heartbeat_seconds


class Leases:
    """All leases of one worker, by serial."""

    def __init__(self) -> None:
        self._held: dict[int, Lease] = {}
        self._batches: list[Batch] = []
        self._next_serial = 0
        self._sweep_at = 64
        self.told: dict[int, float] = {}
        """Serials of runs that were told that their time is over, and when."""
        self.unstarted: dict[int, float] = {}
        """Serials of jobs that had not started when somebody looked, and when that was."""
        self.lost: set[int] = set()
        """Serials of leases that are another's by now: there is nothing left to settle."""
        self.next_extend = math.inf
        self.next_look = math.inf

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, serial: int) -> bool:
        return serial in self._held

    def __iter__(self) -> Iterator[tuple[int, Lease]]:
        return iter(list(self._held.items()))

    def hold(self, leases: Sequence[Lease], member: int, claimed_at: float) -> int:
        """Add leases claimed at `claimed_at`; return the first of their serials, which count up."""
        first = self._next_serial
        end = self._next_serial = first + len(leases)
        self._held.update(zip(range(first, end), leases, strict=True))
        heartbeat = min([lease.message.visibility_timeout_ms for lease in leases]) / 3_000
        runs = min([lease.message.timeout_ms for lease in leases]) / 1_000
        self._batches.append(Batch(first, end, member, heartbeat, claimed_at))
        self.next_extend = min(self.next_extend, claimed_at + heartbeat)
        self.next_look = min(self.next_look, claimed_at + runs)
        if len(self._batches) > self._sweep_at:
            self._sweep()
        return first

    def get(self, serial: int) -> Lease | None:
        """Return a lease that is held."""
        return self._held.get(serial)

    def take(self, serials: Iterable[int]) -> tuple[int, list[Lease]]:
        """Remove leases; return how many were held, and those of them that can be settled.

        One that was taken before, whose answer comes too late, counts for nothing.
        """
        pop = self._held.pop
        if not self.lost and not self.told:
            found = [lease for serial in serials if (lease := pop(serial, None)) is not None]
            return len(found), found
        return self._take_carefully(serials)

    def end(self, outcomes: Iterable[tuple[int, Outcome]]) -> tuple[int, list[Settlement]]:
        """Remove leases with what became of each, as `take` does."""
        pop = self._held.pop
        if not self.lost and not self.told:
            ends = [
                Settlement(lease, outcome)
                for serial, outcome in outcomes
                if (lease := pop(serial, None)) is not None
            ]
            return len(ends), ends
        held, ends = 0, []
        for serial, outcome in outcomes:
            count, leases = self._take_carefully([serial])
            held += count
            ends += [Settlement(lease, outcome) for lease in leases]
        return held, ends

    def _take_carefully(self, serials: Iterable[int]) -> tuple[int, list[Lease]]:
        held = 0
        found: list[Lease] = []
        for serial in serials:
            lease = self._held.pop(serial, None)
            self.told.pop(serial, None)
            if lease is None:
                continue
            held += 1
            if serial in self.lost:
                self.lost.discard(serial)
            else:
                found.append(lease)
        return held, found

    def member_of(self, serial: int) -> int:
        """Return who holds a lease."""
        return self._batch_of(serial).member

    def assign(self, serial: int, member: int) -> None:
        """Give a lease that was held alone to another holder."""
        self._batch_of(serial).member = member

    def of(self, member: int) -> list[tuple[int, Lease]]:
        """Return what one member holds."""
        batches = (batch for batch in self._batches if batch.member == member)
        return [pair for batch in batches for pair in self.left_of(batch)]

    def due(self, now: float) -> list[Batch]:
        """Return the batches to extend; those that have nothing left are forgotten."""
        if now < self.next_extend:
            return []
        self._sweep()
        return [batch for batch in self._batches if batch.extend_at <= now]

    def left_of(self, batch: Batch) -> list[tuple[int, Lease]]:
        """Return what of a batch is still held."""
        held = self._held
        return [
            (serial, held[serial]) for serial in range(batch.first, batch.end) if serial in held
        ]

    def renewed(self, batch: Batch, asked_at: float) -> None:
        """Note that a batch was renewed by a request that left at `asked_at`."""
        batch.renewed_at = asked_at

    def forget_unstarted(self) -> None:
        """Forget the unstarted that are settled by now."""
        self.unstarted = {s: since for s, since in self.unstarted.items() if s in self._held}

    def plan_extend(self, not_before: float) -> None:
        """Compute when the next batch is due, at `not_before` at the earliest."""
        times = (batch.extend_at for batch in self._batches)
        self.next_extend = max(not_before, min(times, default=math.inf))

    def _batch_of(self, serial: int) -> Batch:
        return self._batches[bisect_right(self._batches, serial, key=_first) - 1]

    def _sweep(self) -> None:
        """Forget the batches that are settled; the list is then let grow to twice its length."""
        held = self._held
        self._batches = [
            batch
            for batch in self._batches
            if any(serial in held for serial in range(batch.first, batch.end))
        ]
        self._sweep_at = 64 + 2 * len(self._batches)
