"""Jobs through a private RabbitMQ server, in quorum queues and confirmed, beside bare loops on it.

The bare loop is pika's callback core with nothing around it: it publishes a batch and waits for its
confirms, is delivered it, and acknowledges it at once, in the best of several batch sizes. The
server and its clients share the machine's cores.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.connection import Connection
from pika.spec import BasicProperties

from benchmarks.chain import QUEUE
from benchmarks.figures.latency import Turn, beside, enqueuing, turn
from benchmarks.harness import (
    Context,
    Row,
    alternate,
    at_least,
    compared,
    folder,
)
from benchmarks.pump import Order
from benchmarks.workers import Log, drained, environment
from dibs import App
from dibs.brokers.rabbitmq import open_url
from dibs.clock import SystemClock, system_randomness
from dibs.message import Message
from dibs.producer.ids import Ids
from tests.servers.rabbitmq import programs, serving

DRAINED = 100_000
ENQUEUED = 100_000
BATCHES = (100, 500, 1_000)
TASKS = {"noop_async": "`async def`", "noop": "`def`"}
MESSAGE = b"x" * 60
"""As many bytes as one of dibs takes."""
QUORUM: dict[str, object] = {"x-queue-type": "quorum"}


class Place:
    """A server, and a folder for what jobs note."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path / "queue.db"
        self.url = url


def measure(context: Context) -> list[Row]:
    """Drain, enqueue and wait."""
    return [*_drains(context), _enqueues(context), *_waits(context)]


def _drains(context: Context) -> list[Row]:
    count = context.jobs(DRAINED)
    best = max(BATCHES, key=partial(_bare, count // 4, claims=True))
    note = f"{count:,} jobs; bare publish, claim and ack in batches of {best:,}"
    bare = partial(_bare, count, best, claims=True)
    return [
        compared(
            f"rabbitmq: drain of no-op {kind} jobs",
            "jobs/s",
            alternate(context.runs, partial(_drain, task, count), bare),
            bar=at_least(18_000),
            ratio_bar=at_least(0.6),
            note=note,
        )
        for task, kind in TASKS.items()
    ]


def _drain(task: str, count: int) -> float:
    with running() as place:
        broker = open_url(place.url, clock=SystemClock(), worker_id=os.urandom(16))
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


def _enqueues(context: Context) -> Row:
    count = context.jobs(ENQUEUED)
    best = max(BATCHES, key=partial(_bare, count // 4, claims=False))
    bare = partial(_bare, count, best, claims=False)
    sides = alternate(context.runs, partial(_enqueue, count), bare)
    note = f"{count:,} jobs of one argument; bare publishes confirmed in batches of {best:,}"
    name = "rabbitmq: `enqueue_many`"
    return compared(name, "jobs/s", sides, bar=at_least(18_000), note=note)


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


def _enqueue(count: int) -> float:
    with running() as place:
        app = App(place.url)
        task = app.task(numbered)
        task.enqueue(-1)
        started = time.perf_counter()
        stored = app.enqueue_many(task.bind(number) for number in range(count))
        seconds = time.perf_counter() - started
        app.close()
    return stored / seconds


def _waits(context: Context) -> list[Row]:
    name = "rabbitmq: enqueue to start, idle: p50"
    with (
        running() as place,
        enqueuing(place.path, place.url, "stamp_async") as real,
        _chain(place) as bare,
    ):
        return beside(context, name, real, bare)


@contextmanager
def _chain(place: Place) -> Iterator[Turn]:
    """Yield what publishes for the bare chain: pika's own connection, which waits for confirms."""
    path = place.path.with_name("chain.db")
    log = Log(path)
    connection = BlockingConnection(URLParameters(f"{place.url}?heartbeat=0"))
    channel: BlockingChannel = connection.channel()
    channel.confirm_delivery()
    properties = BasicProperties(delivery_mode=2)

    def send(sent: int) -> None:
        body = b'{"number":%d,"padding":"%s"}' % (sent, MESSAGE[:40])
        channel.basic_publish("", QUEUE, body, properties, mandatory=True)

    command = [sys.executable, "-m", "benchmarks.chain", "pika", place.url]
    with subprocess.Popen(command, env=environment(path), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield partial(turn, log, send)
        child.terminate()
    connection.close()
    log.close()


class Bare:
    """pika's callbacks: each batch is sent when the one before is confirmed, or acknowledged."""

    def __init__(self, url: str, count: int, batch: int, *, claims: bool) -> None:
        self._left, self._batch, self._claims = count, batch, claims
        self._missing = self._unconfirmed = 0
        self._properties = BasicProperties(delivery_mode=2)
        self._connection = SelectConnection(URLParameters(url), self._on_open)

    def run(self) -> float:
        """Send all; return the seconds that it took."""
        self._connection.ioloop.start()
        return time.perf_counter() - self._started

    def _on_open(self, connection: Connection) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.queue_declare("bare", durable=True, arguments=QUORUM)
        channel.basic_qos(prefetch_count=self._batch)
        if self._claims:
            channel.basic_consume("bare", self._on_message)
        channel.confirm_delivery(self._on_confirm, self._on_ready)

    def _on_ready(self, _: object) -> None:
        self._started = time.perf_counter()
        self._confirmed = self._sent = 0
        self._send()

    def _send(self) -> None:
        size = min(self._batch, self._left)
        if not size:
            self._connection.ioloop.stop()
        self._left -= size
        self._sent += size
        self._missing = size if self._claims else 0
        for _ in range(size):
            self._channel.basic_publish("", "bare", MESSAGE, self._properties, mandatory=True)

    def _on_confirm(self, answer: Any) -> None:
        tag = answer.method.delivery_tag
        self._confirmed = tag if answer.method.multiple else self._confirmed + 1
        if self._confirmed == self._sent and not self._missing:
            self._send()

    def _on_message(self, channel: Channel, method: Any, *_: object) -> None:
        self._missing -= 1
        if not self._missing:
            channel.basic_ack(method.delivery_tag, multiple=True)
            if self._confirmed == self._sent:
                self._send()


def _bare(count: int, batch: int, *, claims: bool) -> float:
    with running() as place:
        return count / Bare(place.url, count, batch, claims=claims).run()


@contextmanager
def running() -> Iterator[Place]:
    """Start a server, its data on a disk, and end it."""
    binaries = programs()
    if binaries is None:
        raise RuntimeError("RabbitMQ is not installed")
    with folder() as path:
        path.chmod(0o755)  # the server runs as its own user
        with serving(binaries, path) as server:
            yield Place(path, server.url())
