"""How long a call to a server may last, whatever number of steps and connections it takes.

Owns: the time limit that the connections of one broker share.
Must never: wait, or read a clock but the one it was given.
Called by: the connections to Redis and PostgreSQL, and their adapters. The wire to RabbitMQ counts
from the start of each call and needs none of this.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dibs.clock import Clock
from dibs.message import Lease


class Limit:
    """A limit of `seconds`, by `clock`."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._deadline: float | None = None

    def hurry(self, seconds: float) -> None:
        """Let no call last longer than this, from now on."""
        self.seconds = min(self.seconds, seconds)

    def bear(self, leases: Iterable[Lease]) -> None:
        """Let no call last longer than a sixth of these leases: a late renewal loses one."""
        held = (lease.message.visibility_timeout_ms for lease in leases)
        self.hurry(min(held, default=math.inf) / 6_000)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all calls that are made within last no longer than one may."""
        outer = self._deadline
        self._deadline = self.until()
        try:
            yield
        finally:
            self._deadline = outer

    def until(self) -> float:
        """Return until when a call that begins now may last."""
        return self._deadline or self._clock.monotonic() + self.seconds
