"""The bare way of a job from one process to the start in another, written by hand.

A producer commits a row and writes a byte into a FIFO; `pump` waits for it, claims in a transaction
and sends the rows through a socket pair; `runner`, an event loop, notes when they arrive. There is
no lock file, no registry of who waits, no bookkeeping; and one step comes after the other, where
dibs has the worker wake up during the producer's commit. `pika` does the same with what a server
delivers: pika's callbacks, and nothing around them. Called by the figures `latency` and `rabbitmq`,
as processes of their own: `python -m benchmarks.chain pump FILE FIFO`, `... pika URL`.
"""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.store import Bare

QUEUE = "chain"
"""What `pika` consumes."""


def pump(path: Path, bell: Path) -> None:
    """Claim when the bell rings, until it is closed."""
    with _runner() as link:
        bare = Bare(path)
        descriptor = os.open(bell, os.O_RDONLY | os.O_NONBLOCK)
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        print("ready", flush=True)
        while True:
            waiting.poll()
            if not os.read(descriptor, 4096):
                break
            while found := bare.claim(50):
                link.send(b"".join(bytes(row[3]) for row in found))
                bare.acknowledge(found)
    bare.close()


def pika(url: str) -> None:
    """Hand on and acknowledge what is delivered, until this is ended."""
    from pika import URLParameters
    from pika.adapters.select_connection import SelectConnection

    def on_open(connection: Any) -> None:
        connection.channel(on_open_callback=on_channel)

    def on_channel(channel: Any) -> None:
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_qos(prefetch_count=50)
        channel.basic_consume(QUEUE, on_message, callback=lambda _: print("ready", flush=True))

    with _runner() as link:

        def on_message(channel: Any, method: Any, _: object, body: bytes) -> None:
            link.send(body)
            channel.basic_ack(method.delivery_tag)

        SelectConnection(URLParameters(url), on_open).ioloop.start()


@contextmanager
def _runner() -> Iterator[socket.socket]:
    """Start the process where jobs arrive, and yield the way to it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "benchmarks.chain", "runner", str(theirs.fileno())]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    ours.recv(1)
    yield ours
    ours.close()
    child.wait()


def runner(descriptor: int) -> None:
    """Note when each job arrives on the event loop."""
    link = socket.socket(fileno=descriptor)
    link.setblocking(False)
    asyncio.run(_receive(link))


async def _receive(link: socket.socket) -> None:
    from benchmarks.apps import note

    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def arrived() -> None:
        data = link.recv(4096)
        started = time.monotonic_ns()
        if not data:
            loop.remove_reader(link)
            over.set_result(None)
            return
        note(json.loads(data)["number"], started)

    loop.add_reader(link, arrived)
    link.send(b"!")
    await over


if __name__ == "__main__":
    if sys.argv[1] == "pump":
        pump(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "pika":
        pika(sys.argv[2])
    else:
        runner(int(sys.argv[2]))
