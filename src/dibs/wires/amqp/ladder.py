"""Where delayed messages lie: a ladder of queues, each of which holds a message for its time.

Owns: the rungs, which of them a message is put on, and how late it may be for that.
Must never: read a clock.
Called by: the adapter. A message that comes back too early is put on the next rung: ten seconds
are twice four, once one and four times a quarter, less what each hop took.
"""

from collections.abc import Sequence

RUNGS_MS = (250, 1_000, 4_000, 16_000, 64_000, 256_000, 1_024_000, 4_096_000, 16_384_000)
"""A week is 37 times the highest and at most three times each of the others."""

_LATE_MS = 25
"""A message may be so late if it saves a hop."""


class Rung:
    """One queue of the ladder. Its exchange takes any key, so a message keeps its queue's name.

    What was there for its time goes where that key says, and is confirmed there before it leaves
    here: `at-least-once`, for which the server wants `reject-publish`.
    """

    def __init__(self, prefix: str, ms: int) -> None:
        self.name = f"{prefix}.delay.{ms}"
        self.arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": ms,
            "x-dead-letter-exchange": "",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }


class Ladder:
    """The rungs of one prefix, shortest first."""

    def __init__(self, prefix: str, rungs_ms: Sequence[int] = RUNGS_MS) -> None:
        self._rungs = [(ms, Rung(prefix, ms)) for ms in sorted(rungs_ms)]
        self.rungs = [rung for _, rung in self._rungs]

    def rung(self, wait_ms: int) -> tuple[Rung, int | None]:
        """Return the longest rung that is not too long, and how soon it is to be left at most.

        The shortest is left as soon as the rest of the wait is over, or when what is before it is.
        """
        fit = [rung for ms, rung in self._rungs if ms <= wait_ms + _LATE_MS]
        if len(fit) > 1 or wait_ms >= self._rungs[0][0]:
            return fit[-1], None
        return self._rungs[0][1], max(1, wait_ms)
