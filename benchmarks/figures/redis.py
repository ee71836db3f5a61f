"""Jobs through a private Redis server, `appendfsync=everysec`, beside bare loops on that server.

The bare loop is redis-py with nothing around it: it publishes to a stream, claims as a consumer of
a group, acknowledges and deletes, in the best of several batch sizes, each batch in one round trip.
The server and its clients share the machine's cores.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

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
from benchmarks.workers import END_SECONDS, Log, drained, working
from dibs import App
from dibs.brokers.redis import open_redis
from dibs.clock import SystemClock, system_randomness
from dibs.message import Message
from dibs.producer.ids import Ids

DRAINED = 200_000
ENQUEUED = 100_000
TIMED = 400
BATCHES = (100, 500, 1_000)
TASKS = {"noop_async": "`async def`", "noop": "`def`"}
MESSAGE = b"x" * 120
"""As many bytes as one of dibs takes."""


class Place:
    """A server, and a folder for what jobs note."""

    def __init__(self, folder: Path, port: int) -> None:
        self.path = folder / "queue.db"
        self.url = f"redis://127.0.0.1:{port}"
        self.client = Redis(port=port)

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            with suppress(NotThere):
                self.client.ping()
                return
            time.sleep(0.01)
        raise RuntimeError("the server does not answer")


def measure(context: Context) -> list[Row]:
    """Drain, enqueue and wait."""
    return [*_drains(context), _enqueues(context), *_waits(context)]


def _drains(context: Context) -> list[Row]:
    count = context.jobs(DRAINED)
    best = max(BATCHES, key=partial(_bare_drain, count // 4))
    note = f"{count:,} jobs; bare publish, claim and ack in batches of {best:,}"
    return [
        compared(
            f"redis: drain of no-op {kind} jobs",
            "jobs/s",
            alternate(
                context.runs, partial(_drain, task, count), partial(_bare_drain, count, best)
            ),
            bar=at_least(30_000),
            ratio_bar=at_least(0.6),
            note=note,
        )
        for task, kind in TASKS.items()
    ]


def _drain(task: str, count: int) -> float:
    with serving() as place:
        broker = open_redis(place.client, clock=SystemClock(), worker_id=b"")
        broker.declare(["default"])
        ids = Ids(SystemClock(), system_randomness)
        limit = broker.capabilities.batch_limit
        for start in range(0, count, limit):
            size = min(limit, count - start)
            broker.publish([Message(ids.new(), "default", task, b"{}") for _ in range(size)])
        broker.close()
        seen = drained(Order(str(place.path), url=place.url))
    if seen.done != count:
        raise RuntimeError(f"{seen.done:,} of {count:,} jobs were done")
    return seen.rate


def _bare_drain(count: int, batch: int) -> float:
    with serving() as place:
        client = place.client
        client.xgroup_create("bare", "workers", mkstream=True)
        started = time.perf_counter()
        for start in range(0, count, batch):
            with client.pipeline(transaction=False) as pipeline:
                for _ in range(min(batch, count - start)):
                    pipeline.xadd("bare", {b"m": MESSAGE})
                pipeline.execute()
            found: Any = client.xreadgroup("workers", "one", {"bare": ">"}, count=batch)
            ids = [id for id, _ in found[0][1]]
            with client.pipeline(transaction=False) as pipeline:
                pipeline.xack("bare", "workers", *ids)
                pipeline.xdel("bare", *ids)
                pipeline.execute()
        return count / (time.perf_counter() - started)


def _enqueues(context: Context) -> Row:
    count = context.jobs(ENQUEUED)
    best = max(BATCHES, key=partial(_bare_publish, count // 4))
    sides = alternate(context.runs, partial(_enqueue, count), partial(_bare_publish, count, best))
    note = f"{count:,} jobs of one argument; bare XADD in pipelines of {best:,}"
    name = "redis: `enqueue_many`"
    return compared(name, "jobs/s", sides, bar=at_least(50_000), note=note)


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


def _enqueue(count: int) -> float:
    with serving() as place:
        app = App(place.url)
        task = app.task(numbered)
        task.enqueue(-1)
        started = time.perf_counter()
        stored = app.enqueue_many(task.bind(number) for number in range(count))
        seconds = time.perf_counter() - started
        app.close()
    return stored / seconds


def _bare_publish(count: int, batch: int) -> float:
    with serving() as place:
        started = time.perf_counter()
        for start in range(0, count, batch):
            with place.client.pipeline(transaction=False) as pipeline:
                for _ in range(min(batch, count - start)):
                    pipeline.xadd("bare", {b"m": MESSAGE})
                pipeline.execute()
        return count / (time.perf_counter() - started)


def _waits(context: Context) -> list[Row]:
    count = context.jobs(TIMED)
    times = [_wait(count) for _ in range(context.runs)]
    high = [percentile(some, 0.99) for some in times]
    name = "redis: enqueue to start, idle: p50"
    return [
        plain(name, "ms", [median(some) for some in times], at_most(0.9)),
        plain("  p99", "ms", high, None),
    ]


def _wait(count: int) -> list[float]:
    with serving() as place:
        app = App(place.url)
        enqueue = app.task(name="stamp_async")(_stamp).enqueue
        log = Log(place.path)
        order = Order(str(place.path), processes=None, drain=False, url=place.url)
        with working(order):
            send_each(log, count, enqueue)
        app.close()
        return latencies(log)


def _stamp(sent: int) -> None:
    """What is enqueued: the worker has a task of this name."""
    del sent


@contextmanager
def serving() -> Iterator[Place]:
    """Start a server, its data on a disk, and end it."""
    with folder() as path, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        place = Place(path, port)
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(path)]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        server = subprocess.Popen([*command, *durable], stdout=subprocess.DEVNULL)
        try:
            place.wait()
            yield place
        finally:
            place.client.close()
            server.terminate()
            server.wait(END_SECONDS)
