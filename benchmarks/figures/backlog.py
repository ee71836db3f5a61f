"""A long queue against a short one: equal counts drained from both, first to last settlement."""

from functools import partial
from pathlib import Path

from benchmarks.harness import Context, Row, alternate, at_least, compared, folder
from benchmarks.pump import Order
from benchmarks.store import filled
from benchmarks.workers import drained

SHORT = 100_000
LONG = 1_000_000


def measure(context: Context) -> list[Row]:
    """Drain the same number from both; the long queue never has less than its length waiting."""
    short, long = context.jobs(SHORT), context.jobs(LONG)
    with folder() as place:
        path = filled(place / "long.db", "noop_async", long + short * context.runs)
        sides = alternate(context.runs, partial(_some, path, short), partial(_all, short))
    note = f"{short:,} jobs drained of {long:,} and of {short:,} that wait"
    name = "1,000,000 waiting against 100,000"
    return [compared(name, "jobs/s", sides, ratio_bar=at_least(0.9), note=note)]


def _some(path: Path, count: int) -> float:
    return drained(Order(str(path), drain=False, stop_after=count)).rate


def _all(count: int) -> float:
    with folder() as place:
        return drained(Order(str(filled(place / "short.db", "noop_async", count)))).rate
