"""How many jobs a runner is given beyond its free slots: pure, over time that is passed in.

Owns: the measured pace of one runner and what follows from it.
Must never: let slow jobs pile up in a runner: what would not start within `AHEAD_SECONDS` stays in
the broker, where another worker can have it.
Called by: the crew.
"""

AHEAD_SECONDS = 0.020
"""A runner holds at most what it will start within this time: longer than a trip to the broker
and back, so that quick jobs stream, and far shorter than anybody would wait for a slow one."""

MOST_AHEAD = 5_500
"""A runner never holds more than that ahead, for more speeds up nothing (benchmarks: `drain`), and
each takes memory at both ends: what the quickest moment of a week took would be kept for good."""

STALL_SECONDS = 0.100
"""No outcome for this long, and the measured pace is worth nothing."""

_HALF_LIFE_SECONDS = 0.020


class Pace:
    """Jobs per second that a runner finishes while it has something to do.

    The time is the runner's own (`Done.took_ns`): what it could do, not what the pump let it do.
    Count and time fade with the same half-life, so that a burst of one microsecond weighs a
    microsecond, and a runner that slowed down is found out within a few tens of milliseconds.
    """

    def __init__(self) -> None:
        self._count = 0.0
        self._seconds = 0.0
        self._since = 0.0

    def began(self, now: float) -> None:
        """Note that the runner got work while it had none: the silence before was no stall."""
        self._since = now

    def stalled(self, now: float) -> None:
        """Forget the pace: what was given ahead did not start in time and was taken back."""
        self._count = self._seconds = 0.0
        self._since = now

    def finished(self, count: int, took_seconds: float, now: float) -> None:
        """Note that `count` jobs came back, for which the runner had work for `took_seconds`."""
        self._since = now
        fade = 0.5 ** (took_seconds / _HALF_LIFE_SECONDS)
        self._count = self._count * fade + count
        self._seconds = self._seconds * fade + took_seconds

    def ahead(self, now: float) -> int:
        """Return how many jobs beyond the slots the runner may hold at `now`."""
        if now >= self.stalls_at() or not self._seconds:
            return 0
        return min(MOST_AHEAD, int(self._count / self._seconds * AHEAD_SECONDS))

    def stalls_at(self) -> float:
        """Return when silence makes the pace worthless."""
        return self._since + STALL_SECONDS
