"""When time alone will change something, without looking at every lease each time.

Must never: say that no lease has run out when one has. Called by: brokers that are files.
"""

from collections.abc import Callable

from dibs.brokers.contract import MIN_VISIBILITY_TIMEOUT_MS
from dibs.clock import Clock


class Horizon:
    """A moment before which no lease runs out: one made later lasts the shortest time at least."""

    def __init__(self, first: Callable[[], list[tuple[int | None]]], clock: Clock) -> None:
        self._first = first
        self._clock = clock
        self._at_ms = 0

    def next_in(self, due: int | None, leases: int, expiry: int | None) -> float | None:
        """Return in how many seconds something happens; too early by up to a second at times.

        `due` is on the wall clock, `expiry` on the boot clock: the first of each. Where there are
        more than 100 `leases`, it was not looked for.
        """
        boot = self._clock.boot_ms()
        waits = [] if due is None else [due - self._clock.wall_ms()]
        if leases > 100:
            expiry = self._at_ms
        if expiry is not None:
            waits.append(expiry - boot)
        return min((max(0, wait) / 1000 for wait in waits), default=None)

    def is_passed(self) -> bool:
        """Say whether a lease has run out; it looks at all of them once a second at most."""
        boot = self._clock.boot_ms()
        return boot >= self._at_ms and self.look_again() <= boot

    def look_again(self) -> int:
        """Look at all of them; return the new moment."""
        ((first,),) = self._first()
        latest = self._clock.boot_ms() + MIN_VISIBILITY_TIMEOUT_MS
        self._at_ms = latest if first is None else min(first, latest)
        return self._at_ms
