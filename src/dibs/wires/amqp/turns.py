"""Which queue gives how much of what is asked for.

Must never: read a clock, or know a server.
Called by: `Intake`.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import count


class Turns:
    """Several queues are served in turn, from claim to claim."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._numbers = count()

    def shares(
        self, there: Mapping[str, int], limit: int, given: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Return how many each queue gives, of what is `there`.

        Who has `given` least to this claim already is first, and of those, who was served first.
        """
        if len(there) == 1:
            return {queue: min(limit, number) for queue, number in there.items()}
        given, shares = given or {}, dict.fromkeys(there, 0)
        turns = [(given.get(queue, 0), self._served.get(queue, -1), queue) for queue in there]
        heapify(turns)
        while turns and limit > 0:
            gave, _, queue = heappop(turns)
            if shares[queue] < there[queue]:
                shares[queue] += 1
                limit -= 1
                self._served[queue] = next(self._numbers)
                heappush(turns, (gave + 1, self._served[queue], queue))
        return shares
