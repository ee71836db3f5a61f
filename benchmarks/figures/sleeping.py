"""Jobs of 20 ms in 500 slots, against an event loop that does nothing else."""

import asyncio
import time
from functools import partial

from benchmarks.harness import Context, Row, alternate, at_least, compared, folder
from benchmarks.pump import Order
from benchmarks.store import filled
from benchmarks.workers import drained

COUNT = 100_000
SLOTS = 500
NAP_SECONDS = 0.02


def measure(context: Context) -> list[Row]:
    """Run the same naps both ways."""
    count = context.jobs(COUNT)
    sides = alternate(context.runs, partial(_real, count), partial(_bare, count))
    name = "100,000 jobs of 20 ms sleep, 500 slots"
    return [compared(name, "jobs/s", sides, ratio_bar=at_least(0.9), note=f"{count:,} jobs")]


def _real(count: int) -> float:
    with folder() as place:
        path = filled(place / "queue.db", "nap", count)
        return drained(Order(str(path), slots=SLOTS)).rate


def _bare(count: int) -> float:
    started = time.perf_counter()
    asyncio.run(_naps(count))
    return count / (time.perf_counter() - started)


async def _naps(count: int) -> None:
    left = iter(range(count))

    async def slot() -> None:
        for _ in left:
            await asyncio.sleep(NAP_SECONDS)

    await asyncio.gather(*(slot() for _ in range(SLOTS)))
