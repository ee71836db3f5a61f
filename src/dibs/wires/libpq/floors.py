"""Where the live rows of a queue begin, as far as one who claims has seen.

Must never: be trusted for long: another publisher may commit late. Called by: adapters.
"""

from collections.abc import Sequence

from dibs.clock import Clock
from dibs.wires.libpq.session import Row

LOOK_BACK_SECONDS = 0.5
"""How long a claim that is granted all it asks for may start where the last one ended."""


class Floors:
    """For each queue the last place of what was granted of it, lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._floors: dict[str, int] = {}
        self._look_back_at = 0.0

    def of(self, names: Sequence[str]) -> list[int]:
        """Return a floor for each queue, -1 where there is none."""
        now = self._clock.monotonic()
        if now >= self._look_back_at:
            self._floors.clear()
            self._look_back_at = now + LOOK_BACK_SECONDS
        return [self._floors.get(name, -1) for name in names]

    def note(self, rows: Sequence[Row]) -> None:
        """Take in what was granted."""
        # They come in order: of a queue, the last one of priority 0 is the highest.
        self._floors |= {row[1]: row[19] for row in rows if row[5] == 0}
