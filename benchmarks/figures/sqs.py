"""Jobs through a local server that speaks SQS, beside bare loops of boto3 on that server.

The bare loop is one boto3 client with nothing around it, in batches of ten, the most that SQS
takes: it sends all, then receives and deletes until it has had all. The server is moto's, in a
process of its own on the same cores, and slower than Amazon's by far: what is compared is the
number of requests and the work around them.
"""

import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures.latency import latencies, send_each
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
from benchmarks.workers import Log, drained, working
from dibs import App
from dibs.brokers.sqs import open_sqs
from dibs.clock import SystemClock, system_randomness
from dibs.message import Message
from dibs.producer.ids import Ids
from dibs.wires.aws.client import Address, client_at
from tests.servers.sqs import Server, keys_set, serving

COUNT = 400
TIMED = 100
TEN = 10
BODY = "x" * 2
ATTRIBUTE = {"dibs": {"DataType": "Binary", "BinaryValue": b"x" * 60}}
"""As many bytes as a message of dibs takes."""


def measure(context: Context) -> list[Row]:
    """Drain, enqueue and wait."""
    count = context.jobs(COUNT)
    with keys_set(), serving() as server:
        note = f"{count:,} jobs; bare send, receive and delete in tens"
        drains = alternate(
            context.runs, partial(_drain, server, count), partial(_bare, server, count)
        )
        half = alternate(
            context.runs, partial(_drain, server, count), partial(_bare_drain, server, count)
        )
        enqueues = alternate(
            context.runs, partial(_enqueue, server, count), partial(_bare_send, server, count)
        )
        return [
            compared(
                "sqs: drain of no-op jobs", "jobs/s", drains, ratio_bar=at_least(0.8), note=note
            ),
            compared("  beside bare receive and delete alone", "jobs/s", half),
            compared("sqs: `enqueue_many`", "jobs/s", enqueues, ratio_bar=at_least(0.8)),
            *_waits(context, server),
        ]


def _drain(server: Server, count: int) -> float:
    url = server.url()
    prefix = url.partition("?")[0].rpartition("/")[2]
    broker = open_sqs(_client(server), prefix, clock=SystemClock())
    broker.declare(["default"])
    ids = Ids(SystemClock(), system_randomness)
    for _ in range(0, count, 100):
        broker.publish([Message(ids.new(), "default", "noop_async", b"{}") for _ in range(100)])
    broker.close()
    with folder() as place:
        seen = drained(Order(str(place / "queue.db"), url=url))
    if seen.done != count:
        raise RuntimeError(f"{seen.done:,} of {count:,} jobs were done")
    return seen.rate


def _enqueue(server: Server, count: int) -> float:
    app = App(server.url())
    task = app.task(numbered)
    task.enqueue(-1)
    started = time.perf_counter()
    stored = app.enqueue_many(task.bind(number) for number in range(count))
    seconds = time.perf_counter() - started
    app.close()
    return stored / seconds


def numbered(number: int) -> None:
    """What is enqueued; it is never run here."""
    del number


def _client(server: Server) -> Any:
    return client_at(Address("eu-west-1", "bare", server.endpoint), 30, 10)


def _bare(server: Server, count: int) -> float:
    client, url = _queue(server)
    started = time.perf_counter()
    _send_all(client, url, count)
    _receive_all(client, url, count)
    return count / (time.perf_counter() - started)


def _bare_drain(server: Server, count: int) -> float:
    client, url = _queue(server)
    _send_all(client, url, count)
    started = time.perf_counter()
    _receive_all(client, url, count)
    return count / (time.perf_counter() - started)


def _bare_send(server: Server, count: int) -> float:
    client, url = _queue(server)
    started = time.perf_counter()
    _send_all(client, url, count)
    return count / (time.perf_counter() - started)


def _queue(server: Server) -> tuple[Any, str]:
    client = _client(server)
    return client, client.create_queue(QueueName=server.new_prefix() + "bare")["QueueUrl"]


def _send_all(client: Any, url: str, count: int) -> None:
    entries = [
        {"Id": str(n), "MessageBody": BODY, "DelaySeconds": 0, "MessageAttributes": ATTRIBUTE}
        for n in range(TEN)
    ]
    for _ in range(0, count, TEN):
        answer = client.send_message_batch(QueueUrl=url, Entries=entries)
        if len(answer["Successful"]) != TEN:
            raise RuntimeError("not every message was sent")


def _receive_all(client: Any, url: str, count: int) -> None:
    left = count
    while left > 0:
        answer = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=TEN,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        entries = [
            {"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]}
            for n, one in enumerate(answer["Messages"])
        ]
        left -= len(client.delete_message_batch(QueueUrl=url, Entries=entries)["Successful"])


def _waits(context: Context, server: Server) -> list[Row]:
    count = context.jobs(TIMED)
    times = [_wait(server, count) for _ in range(context.runs)]
    high = [percentile(some, 0.99) for some in times]
    return [
        plain("sqs: enqueue to start, idle: p50", "ms", [median(some) for some in times], None),
        plain("  p99", "ms", high, None),
    ]


def _wait(server: Server, count: int) -> list[float]:
    url = server.url()
    with folder() as place:
        path: Path = place / "queue.db"
        app = App(url)
        enqueue = app.task(name="stamp_async")(_stamp).enqueue
        log = Log(path)
        with working(Order(str(path), processes=None, drain=False, url=url)):
            send_each(log, count, enqueue)
        app.close()
        return latencies(log)


def _stamp(sent: int) -> None:
    """What is enqueued: the worker has a task of this name."""
    del sent
