"""Other processes: each runs one of these functions, and says so on a pipe when it is ready."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dibs.brokers.sqlite import SqliteBroker
from dibs.clock import SystemClock
from dibs.local.bells import Bells
from dibs.local.database import Database
from dibs.local.listing import Board
from dibs.message import Ack, Message, Settlement

_spawn = multiprocessing.get_context("spawn")
STATEMENTS = Path(__file__).parent


@contextmanager
def child(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """Start `work` in a process of its own; it is killed when the block is left."""
    here, there = _spawn.Pipe()
    process = _spawn.Process(target=work, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def taken_by(broker: SqliteBroker) -> list[bytes]:
    """Claim and acknowledge all that is ready; return the ids."""
    taken: list[bytes] = []
    while leases := broker.claim(["photos"], 100).leases:
        taken += [lease.message.id for lease in leases]
        broker.settle([Settlement(lease, Ack()) for lease in leases])
    return taken


def open_here(path: Path) -> SqliteBroker:
    return SqliteBroker(path, worker_id=os.urandom(8), clock=SystemClock())


def stop_inside_a_commit(pipe: Connection, path: Path) -> None:
    database = Database(path, STATEMENTS)
    pipe.send("ready")
    database.write(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def lead_and_stop(pipe: Connection, path: Path, moment: str) -> None:
    """Publish as one of a group, and stop before the commit, or after it and before any answer."""
    broker = open_here(path)
    broker._db.contended = True

    def stop(*_: object) -> bool:
        pipe.send(moment)
        pipe.recv()
        return False

    if moment == "before":
        broker._db.connection.set_commit_hook(stop)
    else:
        broker._together._tell = stop
    pipe.send("ready")
    pipe.recv()
    broker.publish([Message(os.urandom(16), "photos", "resize", b"{}")])


def bells_at(folder: Path, name: bytes) -> Bells:
    """Return the bells of one who has nothing else of a broker."""
    board = folder.with_name(folder.name.removesuffix("-bells") + "-board")
    return Bells(folder, name, Board(board))


def wait_for_work(pipe: Connection, folder: Path, queue: str, name: bytes) -> None:
    bells = bells_at(folder, name)
    bells.fd()
    bells.arm([queue], idle=True)
    pipe.send("armed")
    pipe.recv()


def hang_up(pipe: Connection, folder: Path, name: bytes) -> None:
    bells_at(folder, name).fd()
    pipe.send("hung up")
    pipe.recv()


def wait_for_end(pipe: Connection, folder: Path, awaited: bytes, name: bytes) -> None:
    bells = bells_at(folder, name)
    bells.fd()
    bells.await_ends([awaited])
    pipe.send("armed")
    pipe.recv()


def publish_for_ever(pipe: Connection, path: Path, tag: int) -> None:
    """Send the number of every message once it is confirmed."""
    broker = open_here(path)
    number = 0
    while True:
        batch = [(tag, number + n) for n in range(1 + number % 7)]
        broker.publish([Message(bytes_of(*one), "photos", "resize", b"{}") for one in batch])
        pipe.send(batch)
        number += len(batch)


def work_for_ever(pipe: Connection, path: Path) -> None:
    """Send what is about to be acknowledged, and again once it is."""
    broker = open_here(path)
    while True:
        leases = broker.claim(["photos"], 5).leases
        if leases:
            done = [lease.message.id for lease in leases]
            pipe.send(("trying", done))
            broker.settle([Settlement(lease, Ack()) for lease in leases])
            pipe.send(("done", done))


def bytes_of(tag: int, number: int) -> bytes:
    return number.to_bytes(12) + tag.to_bytes(4)
