"""Jobs whose results are kept: how fast they drain, and how soon a waiting caller has one.

The first is the figure `drain` with tasks that return a word; its bare side keeps the words too.
The second is from the last line of a task to the return of `result()` or `aresult()` in a process
that waits for it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from statistics import median
from time import monotonic_ns

from benchmarks.harness import (
    Context,
    Row,
    alternate,
    at_least,
    compared,
    folder,
    percentile,
    plain,
)
from benchmarks.pump import Order
from benchmarks.store import BATCHES, bare_drain, filled, opened, url
from benchmarks.workers import END_SECONDS, drained, working
from dibs import App, Job

COUNT = 300_000
TASKS = {"answer_async": "`async def`", "answer": "`def`"}
ASKED = 400
WORD = b'"done"'


def measure(context: Context) -> list[Row]:
    """Drain each kind beside the bare loop; then ask for results one at a time."""
    count = context.jobs(COUNT)
    best = max(BATCHES, key=partial(_bare, count // 3))
    rows = []
    for task, kind in TASKS.items():
        sides = alternate(context.runs, partial(_real, task, count), partial(_bare, count, best))
        rows.append(
            compared(
                f"drain of {kind} jobs with results kept",
                "jobs/s",
                sides,
                bar=at_least(60_000),
                note=f"{count:,} jobs; bare in batches of {best:,}",
            )
        )
    for name, ask in {"result()": _ask_each, "aresult()": _ask_each_async}.items():
        rows += _waiting(context, name, ask)
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
        return bare_drain(filled(place / "queue.db", "answer", count), batch, WORD)


Ask = Callable[[Callable[[], Job[int]], int], list[int]]


def _waiting(context: Context, name: str, ask: Ask) -> list[Row]:
    count = context.jobs(ASKED)
    middle: list[float] = []
    high: list[float] = []
    for _ in range(context.runs):
        times = _asked(count, ask)
        middle.append(median(times))
        high.append(percentile(times, 0.99))
    return [
        plain(f"end of a job to the return of `{name}`: p50", "ms", middle, None, f"{count} jobs"),
        plain("  p99", "ms", high, None),
    ]


def _asked(count: int, ask: Ask) -> list[float]:
    with folder() as place:
        path = place / "queue.db"
        opened(path).close()
        app = App(url(path))
        with working(Order(str(path), processes=None, drain=False)):
            times = ask(app.task(ended).enqueue, count)
        app.close()
    return [ns / 1e6 for ns in times[count // 10 :]]


def ended() -> int:
    """What is enqueued: the worker has a task of this name, which returns when it ended."""
    raise NotImplementedError


def _ask_each(enqueue: Callable[[], Job[int]], count: int) -> list[int]:
    times = []
    for _ in range(count):
        at = enqueue().result(END_SECONDS)
        times.append(monotonic_ns() - at)
    return times


def _ask_each_async(enqueue: Callable[[], Job[int]], count: int) -> list[int]:
    async def ask() -> list[int]:
        times = []
        for _ in range(count):
            at = await enqueue().aresult(END_SECONDS)
            times.append(monotonic_ns() - at)
        return times

    return asyncio.run(ask())
