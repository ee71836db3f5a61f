"""`aenqueue` from 1,000 coroutines, and how long the event loop is blocked meanwhile.

A callback is due every millisecond; how late it runs is how long the loop did nothing else than
what it was at. Beside it stands the lateness of the same callback on a loop that does nothing,
which is the machine's own. The coroutines start a few at a time: a thousand first steps in one turn
of the loop would be a block of the benchmark's own making.
"""

import asyncio
import time
from statistics import median

from benchmarks.harness import (
    Context,
    Row,
    alternate,
    at_least,
    at_most,
    folder,
    percentile,
    plain,
)
from benchmarks.store import url
from dibs import App

COROUTINES = 1_000
EACH = 100
TICK_SECONDS = 0.001
STARTED_AT_ONCE = 20


class Ticker:
    """Calls itself every millisecond and notes in `late` by how many milliseconds it was late."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + TICK_SECONDS
        self._handle = self._loop.call_at(self._due, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        self._handle.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        self.late.append((now - self._due) * 1_000)
        self._due = now + TICK_SECONDS
        self._handle = self._loop.call_at(self._due, self._tick)


def measure(context: Context) -> list[Row]:
    """Run the coroutines, and the idle loop for a second beside them."""
    each = context.jobs(EACH * COROUTINES) // COROUTINES
    rates: list[float] = []
    high: list[float] = []

    def real() -> float:
        with folder() as place:
            rate, late = asyncio.run(_run(url(place / "queue.db"), each))
        rates.append(rate)
        high.append(percentile(late, 0.99))
        return max(late)

    reals, idles = alternate(context.runs + 2, real, lambda: max(asyncio.run(_idle())))
    note = f"{COROUTINES:,} coroutines, {each} jobs each"
    blocked = Row(
        "the loop's longest block meanwhile",
        "ms",
        median(reals),
        at_most(5),
        bare=median(idles),
        values=reals,
        bares=idles,
        note=f"p99 {median(high):.2f} ms, in the worst run {max(reals):.1f} at most; bare: the same"
        " callback on a loop that does nothing",
    )
    return [
        plain("`aenqueue` from 1,000 coroutines", "jobs/s", rates, at_least(50_000), note),
        blocked,
    ]


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


async def _run(where: str, each: int) -> tuple[float, list[float]]:
    app = App(where)
    task = app.task(numbered)
    await task.aenqueue(-1)

    async def producer() -> None:
        for number in range(each):
            await task.aenqueue(number)

    ticker = Ticker()
    started = time.perf_counter()
    producers = []
    for _ in range(COROUTINES // STARTED_AT_ONCE):
        producers += [asyncio.create_task(producer()) for _ in range(STARTED_AT_ONCE)]
        await asyncio.sleep(0)
    await asyncio.gather(*producers)
    seconds = time.perf_counter() - started
    ticker.stop()
    app.close()
    return COROUTINES * each / seconds, ticker.late


async def _idle() -> list[float]:
    ticker = Ticker()
    await asyncio.sleep(1)
    ticker.stop()
    return ticker.late
