"""Jobs enqueued one by one, each durable on return, against the bare commit of one row.

Both sides stay open and take turns every tenth of a second: a commit's time is the disk's, whose
other users come and go within a second.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from benchmarks.harness import Context, Row, alternate, at_least, compared, folder
from benchmarks.store import Bare, opened, url, values
from dibs import App

T = TypeVar("T")
Turn = Callable[[int], float]
"""Does so many jobs; returns how many a second that were."""

TURNS = 20
COUNT = 400
"""Jobs in each turn."""


def measure(context: Context) -> list[Row]:
    """Enqueue beside the bare loop."""
    jobs = context.jobs(COUNT)
    with _enqueueing() as real, _committing() as bare:
        sides = alternate(TURNS, partial(real, jobs), partial(bare, jobs))
    name, note = "`enqueue` one by one", f"{TURNS} turns of {jobs:,} jobs"
    return [compared(name, "jobs/s", sides, ratio_bar=at_least(0.7), note=note)]


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


@contextmanager
def _enqueueing() -> Iterator[Turn]:
    with folder() as place:
        app = App(url(place / "queue.db"))
        enqueue = app.task(numbered).enqueue
        enqueue(-1)
        yield lambda jobs: _rate(enqueue, range(jobs))
        app.close()


@contextmanager
def _committing() -> Iterator[Turn]:
    """Insert and commit prepared rows one by one."""
    with folder() as place:
        opened(place / "queue.db").close()
        bare = Bare(place / "queue.db")
        yield lambda jobs: _rate(bare.store, [values(n, n + 1) for n in range(jobs)])
        bare.close()


def _rate(step: Callable[[T], object], things: Sequence[T]) -> float:
    """Return how many steps a second are made."""
    started = time.perf_counter()
    for thing in things:
        step(thing)
    return len(things) / (time.perf_counter() - started)
