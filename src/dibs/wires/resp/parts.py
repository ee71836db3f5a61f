"""How many settlements one script ends: no more than arrive in one call.

Owns: the bytes of results and errors that are sent at once.
Must never: leave out one, or wait.
Called by: `RedisBroker.settle`.

Without this a worker that is far from its server, and has many large results, would send all of
them again and again, each time for as long as a call may last, and none would ever arrive.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat

from dibs.acked import Acked
from dibs.message import Ack, Outcome, Release, Settlement

MOST_BYTES = 4 << 20


def parts_of(settlements: Sequence[Settlement], most: int) -> Iterator[int]:
    """Yield how many are ended by the first script, by the next one, and so on: `most` at most."""
    if type(settlements) is Acked:  # they have none
        yield from repeat(most)
    count = size = 0
    for settlement in settlements:
        more = _bytes_of(settlement.outcome)
        if count == most or (count and size + more > MOST_BYTES):
            yield count
            count = size = 0
        count, size = count + 1, size + more
    yield count


def _bytes_of(outcome: Outcome) -> int:
    if isinstance(outcome, Ack):
        return len(outcome.result or b"")
    if isinstance(outcome, Release):
        return 0
    return len(outcome.error.message) + len(outcome.error.traceback)
