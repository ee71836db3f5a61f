"""PostgreSQL, every commit on its disk: draining, enqueue_many, enqueue to start, a long backlog.

The server is private, with `fsync=on` and `synchronous_commit=on`. The bare side of each figure is
one loop over the adapter's own calls (publish, or claim and acknowledge) on the same server, at the
best of several batch sizes, without a worker, a runner or a task.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from statistics import median

from benchmarks.figures.latency import latencies, send_each
from benchmarks.harness import (
    Context,
    Row,
    alternate,
    at_least,
    at_most,
    compared,
    folder,
    percentile,
    plain,
)
from benchmarks.pump import Order
from benchmarks.workers import Log, drained, working
from dibs import App
from dibs.alike import Alike
from dibs.brokers.contract import Broker
from dibs.brokers.postgres import open_url
from dibs.clock import SystemClock, system_randomness
from dibs.message import Ack, Message, Settlement
from dibs.producer.ids import Ids
from tests.servers.postgres import programs, serving

DRAINED = 100_000
ENQUEUED = 100_000
STARTED = 400
BACKLOG = 1_000_000
BATCHES = (250, 1_000, 4_000)
_ids = Ids(SystemClock(), system_randomness)
_schemas = count()


def measure(context: Context) -> list[Row]:
    """Measure all of it on one server."""
    with running("shared_buffers=256MB", "max_wal_size=4GB") as url:
        new = partial(_new_url, url)
        return [
            *_drain(context, new),
            _enqueue_many(context, new),
            *_start(context, new),
            _backlog(context, new),
        ]


@contextmanager
def running(*settings: str) -> Iterator[str]:
    """Start a server whose commits are on its disk; yield its URL, and end it."""
    binaries = programs()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed: apt install postgresql")
    with serving(binaries, "fsync=on", *settings) as server:
        yield server.url("postgres")


def _new_url(url: str) -> str:
    return f"{url}&schema=bench_{next(_schemas)}"


def _drain(context: Context, new: Callable[[], str]) -> list[Row]:
    jobs = context.jobs(DRAINED)
    best = max(BATCHES, key=lambda batch: _bare_drain(filled(new(), jobs // 3), batch))
    rows = []

    def real(task: str) -> float:
        return _real_drain(filled(new(), jobs, task), jobs)

    def bare() -> float:
        return _bare_drain(filled(new(), jobs), best)

    for task, kind in {"noop_async": "`async def`", "noop": "`def`"}.items():
        sides = alternate(context.runs, partial(real, task), bare)
        name = f"PostgreSQL: drain of no-op {kind} jobs"
        note = f"{jobs:,} jobs; bare in batches of {best:,}"
        bars = {"bar": at_least(20_000), "ratio_bar": at_least(0.6)}
        rows.append(compared(name, "jobs/s", sides, **bars, note=note))
    return rows


def _real_drain(url: str, jobs: int, *, at_most_jobs: int = 0) -> float:
    with folder() as place:
        seen = drained(
            Order(str(place / "queue"), url=url, drain=not at_most_jobs, stop_after=at_most_jobs)
        )
    if seen.done < (at_most_jobs or jobs):
        raise RuntimeError(f"{seen.done:,} of {jobs:,} jobs were done: {seen.troubles}")
    return seen.rate


def _bare_drain(url: str, batch: int) -> float:
    with opened(url) as broker:
        done, ack = 0, Ack()
        started = time.perf_counter()
        while leases := broker.claim(["default"], batch).leases:
            broker.settle([Settlement(lease, ack) for lease in leases])
            done += len(leases)
        return done / (time.perf_counter() - started)


def _enqueue_many(context: Context, new: Callable[[], str]) -> Row:
    jobs = context.jobs(ENQUEUED)
    best = max(BATCHES, key=lambda batch: _bare_publish(new(), jobs, batch))
    sides = alternate(
        context.runs, lambda: _real_publish(new(), jobs), lambda: _bare_publish(new(), jobs, best)
    )
    note = f"{jobs:,} jobs of one argument; bare in batches of {best:,}"
    name = "PostgreSQL: `enqueue_many`"
    return compared(name, "jobs/s", sides, bar=at_least(60_000), note=note)


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


def _real_publish(url: str, jobs: int) -> float:
    app = App(url)
    task = app.task(numbered)
    task.enqueue(-1)
    started = time.perf_counter()
    stored = app.enqueue_many(task.bind(number) for number in range(jobs))
    seconds = time.perf_counter() - started
    app.close()
    return stored / seconds


def _bare_publish(url: str, jobs: int, batch: int) -> float:
    batches = [made("numbered", min(batch, jobs - at)) for at in range(0, jobs, batch)]
    with opened(url) as broker:
        started = time.perf_counter()
        for messages in batches:
            broker.publish(messages)
        return jobs / (time.perf_counter() - started)


def _start(context: Context, new: Callable[[], str]) -> list[Row]:
    high: list[float] = []
    values: list[float] = []
    jobs = context.jobs(STARTED)
    for _ in range(context.runs):
        times = _started(new(), jobs)
        values.append(median(times))
        high.append(percentile(times, 0.99))
    name = "PostgreSQL: enqueue to start, idle: p50"
    note = f"{jobs} jobs, one at a time, to a worker that listens"
    return [plain(name, "ms", values, at_most(2), note=note), plain("  p99", "ms", high, None)]


def _started(url: str, jobs: int) -> list[float]:
    app = App(url)
    enqueue = app.task(name="stamp_async")(_stamp).enqueue
    with folder() as place:
        log = Log(place / "queue")
        with working(Order(str(place / "queue"), url=url, processes=None, drain=False)):
            send_each(log, jobs, enqueue)
        app.close()
        return latencies(log)


def _stamp(sent: int) -> None:
    """What is enqueued: the worker has a task of this name."""
    del sent


def _backlog(context: Context, new: Callable[[], str]) -> Row:
    many, few = context.jobs(BACKLOG), context.jobs(BACKLOG) // 10
    sides = alternate(
        context.runs,
        lambda: _real_drain(filled(new(), many), many, at_most_jobs=few),
        lambda: _real_drain(filled(new(), few), few, at_most_jobs=few),
    )
    note = f"the first {few:,} of {many:,}, beside {few:,} that are all; no ANALYZE"
    name = f"PostgreSQL: drain at {many:,} waiting"
    return compared(name, "jobs/s", sides, ratio_bar=at_least(0.9), note=note)


def filled(url: str, jobs: int, task: str = "noop_async") -> str:
    """Make the store if it is not there, publish jobs, and return the URL."""
    with opened(url) as broker:
        for at in range(0, jobs, 4_000):
            broker.publish(made(task, min(4_000, jobs - at)))
    return url


def made(task: str, how_many: int) -> Alike:
    """Return new messages."""
    ids = _ids.take(how_many)
    args = [b'{"number":1}' if task == "numbered" else b"{}"] * how_many
    return Alike(Message(ids[0], "default", task, args[0]), ids, args)


@contextmanager
def opened(url: str) -> Iterator[Broker]:
    """Open the queues there, making the store if there is none."""
    broker = open_url(url, clock=SystemClock(), worker_id=os.urandom(16))
    try:
        broker.declare(["default"])
        yield broker
    finally:
        broker.close()
