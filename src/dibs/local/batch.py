"""Messages on their way into a file, as the columns of its inserts.

A batch of one's own is made before the lock is taken: who holds it should not wait for the
interpreter's. Must never: look at one message where a run of them will do.
Called by: brokers that are files.
"""

import json
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from dibs.alike import Alike
from dibs.local.arrays import blobs
from dibs.message import Message

_SINGLE = {"id", "queue", "args", "headers"}
_shared = attrgetter(*(name for name in Message.__struct_fields__ if name not in _SINGLE))
"""Reads the other fields, in one call: an insert of one message is worth a hundred microseconds."""


class Batch:
    """What is stored at once.

    Attributes:
        inserts: for each run its queue, how many it has, and the other values of its insert.
        alone: its run, if that is of one message.
    """

    def __init__(self, runs: list[Alike], now: int) -> None:
        self.take(runs, now)

    def take(self, runs: list[Alike], now: int) -> None:
        """Have these in it, and nothing else."""
        self.runs = runs
        self.now = now
        self.inserts = [_insert(run, now) for run in runs]
        self.queues = {run.pattern.queue for run in runs}
        self.alone: Alike | None = runs[0] if is_one(runs) else None

    def stored_by(self, store: Callable[["Batch"], list[Any]]) -> Callable[[], list[Any]]:
        """Return what is to be done in each transaction that tries to store it by `store`."""
        return partial(store, self)


def is_one(runs: list[Alike]) -> bool:
    """Say whether there is one message in all."""
    return len(runs) == 1 and len(runs[0].ids) == 1


def _insert(run: Alike, now: int) -> tuple[str, int, list[Any]]:
    pattern = run.pattern
    headers = json.dumps(pattern.headers) if pattern.headers else None
    ids = b"".join(run.ids)
    return pattern.queue, len(run.ids), [*_shared(pattern), headers, now, ids, blobs(run.args)]
