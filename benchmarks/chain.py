"""The bare way of a job from one process to the start in another, written by hand.

A producer commits a row and writes a byte into a FIFO; `pump` waits for it, claims in a transaction
and sends the rows through a socket pair; `runner`, an event loop, notes when they arrive. There is
no lock file, no registry of who waits, no bookkeeping; and one step comes after the other, where
dibs has the worker wake up during the producer's commit. Called by the figure `latency`, as
processes of their own: `python -m benchmarks.chain pump FILE FIFO`.
"""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.store import Bare


def pump(path: Path, bell: Path) -> None:
    """Claim when the bell rings, until it is closed."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "benchmarks.chain", "runner", str(theirs.fileno())]
    runner = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    ours.recv(1)
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
            ours.send(b"".join(bytes(row[3]) for row in found))
            bare.acknowledge(found)
    ours.close()
    runner.wait()
    bare.close()


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
    else:
        runner(int(sys.argv[2]))
