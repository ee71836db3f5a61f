"""Draining no-op jobs: 50 slots, one runner process, default settings, every commit on the disk.

The time is from the first settlement to the last, so the start of the processes is not in it; the
bare side is one loop over the adapter's statements, at the best of several batch sizes.
"""

from functools import partial

from benchmarks.harness import Context, Row, alternate, at_least, compared, folder
from benchmarks.pump import Order
from benchmarks.store import BATCHES, bare_drain, filled
from benchmarks.workers import drained

COUNT = 300_000
TASKS = {"noop_async": "`async def`", "noop": "`def`"}


def measure(context: Context) -> list[Row]:
    """Drain each kind beside the bare loop."""
    count = context.jobs(COUNT)
    best = max(BATCHES, key=partial(_bare, count // 3))
    rows = []
    for task, kind in TASKS.items():
        turns = context.runs + 2  # the second core, which only we use, is not always ours
        sides = alternate(turns, partial(_real, task, count), partial(_bare, count, best))
        note = f"{count:,} jobs; bare in batches of {best:,}"
        row = compared(
            f"drain of no-op {kind} jobs",
            "jobs/s",
            sides,
            bar=at_least(100_000),
            ratio_bar=at_least(0.6),
            note=note,
        )
        rows.append(row)
    return rows


def _real(task: str, count: int) -> float:
    with folder() as place:
        path = filled(place / "queue.db", task, count)
        seen = drained(Order(str(path)))
    if seen.done != count:
        raise RuntimeError(f"{seen.done:,} of {count:,} jobs were done")
    return seen.rate


def _bare(count: int, batch: int) -> float:
    with folder() as place:
        return bare_drain(filled(place / "queue.db", "noop", count), batch)
