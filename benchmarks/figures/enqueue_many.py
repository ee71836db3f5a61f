"""100,000 jobs in one call, against the adapter's insert with prepared rows, at its best batch."""

import time
from functools import partial

from benchmarks.harness import Context, Row, alternate, at_least, compared, folder
from benchmarks.store import BEST_INSERT_BATCHES, bare_insert, url
from dibs import App

COUNT = 100_000


def measure(context: Context) -> list[Row]:
    """Enqueue beside the bare loop."""
    count = context.jobs(COUNT)
    best = max(BEST_INSERT_BATCHES, key=partial(_bare, count))
    sides = alternate(5 * context.runs, partial(_real, count), partial(_bare, count, best))
    note = f"{count:,} jobs of one argument; bare in batches of {best:,}"
    return [
        compared(
            "`enqueue_many`",
            "jobs/s",
            sides,
            bar=at_least(200_000),
            ratio_bar=at_least(0.65),
            note=note,
        )
    ]


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


def _real(count: int) -> float:
    with folder() as place:
        app = App(url(place / "queue.db"))
        task = app.task(numbered)
        task.enqueue(-1)
        started = time.perf_counter()
        stored = app.enqueue_many(task.bind(number) for number in range(count))
        seconds = time.perf_counter() - started
        app.close()
    return stored / seconds


def _bare(count: int, batch: int) -> float:
    with folder() as place:
        return bare_insert(place / "queue.db", count, batch)
