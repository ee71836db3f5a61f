"""Jobs enqueued one by one, each durable on return, against the bare commit of one row."""

import time
from functools import partial

from benchmarks.harness import Context, Row, alternate, at_least, compared, folder
from benchmarks.store import bare_insert, url
from dibs import App

COUNT = 2_000


def measure(context: Context) -> list[Row]:
    """Enqueue beside the bare loop."""
    count = context.jobs(COUNT)
    sides = alternate(context.runs + 2, partial(_real, count), partial(bare_one_by_one, count))
    name = "`enqueue` one by one"
    return [compared(name, "jobs/s", sides, ratio_bar=at_least(0.7), note=f"{count:,} jobs")]


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


def bare_one_by_one(count: int) -> float:
    """Insert and commit row by row; return rows per second."""
    with folder() as place:
        return bare_insert(place / "queue.db", count, 1)


def _real(count: int) -> float:
    with folder() as place:
        app = App(url(place / "queue.db"))
        task = app.task(numbered)
        task.enqueue(-1)
        started = time.perf_counter()
        for number in range(count):
            task.enqueue(number)
        seconds = time.perf_counter() - started
        app.close()
    return count / seconds
