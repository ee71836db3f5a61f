"""Which queue gives how much of what is asked for.

Must never: read a clock, or know a server.
Called by: `Intake`.
"""

from collections import deque
from collections.abc import Mapping
from itertools import count


class Turns:
    """Several queues are served in turn, from claim to claim."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._numbers = count()

    def shares(self, there: Mapping[str, int], limit: int) -> dict[str, int]:
        """Return how many each queue gives, of what is `there`; the last one served is last."""
        shares = dict.fromkeys(there, 0)
        if len(there) == 1:
            return {queue: min(limit, number) for queue, number in there.items()}
        turn = deque(sorted(there, key=lambda queue: self._served.get(queue, -1)))
        while turn and limit > 0:
            queue = turn.popleft()
            if shares[queue] < there[queue]:
                shares[queue] += 1
                limit -= 1
                self._served[queue] = next(self._numbers)
                turn.append(queue)
        return shares
