"""Queue files: made, filled, and worked by hand.

Owns: the bare loops over the adapter's own statements: same schema, same settings, rows fetched, a
commit for each step, and nothing else: no lock file, no bell, no messages made of rows.
Must never: have SQL of its own. Called by the figures.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from dibs.brokers import sqlite
from dibs.brokers.contract import Broker
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock, system_randomness
from dibs.local.arrays import blobs, integers
from dibs.local.database import Database
from dibs.message import Message
from dibs.producer.ids import Ids

BATCHES = (100, 500, 1_000, 2_000, 5_000)
PUBLISH_BATCH = 5_000
BEST_INSERT_BATCHES = (500, 1_000, 5_000)
_ids = Ids(SystemClock(), system_randomness)


def url(path: Path) -> str:
    """Return the URL of a queue file."""
    return f"sqlite:///{path}"


def opened(path: Path) -> Broker:
    """Open a queue file, making it if need be."""
    broker = open_sqlite(path, clock=SystemClock(), worker_id=b"")
    broker.declare(["default"])
    return broker


def filled(
    path: Path, task: str, count: int, arguments: Callable[[int], bytes] | None = None
) -> Path:
    """Publish `count` jobs of `task` and return the path."""
    broker = opened(path)
    made = (
        Message(_ids.new(), "default", task, arguments(n) if arguments else b"{}")
        for n in range(count)
    )
    for start in range(0, count, PUBLISH_BATCH):
        size = min(PUBLISH_BATCH, count - start)
        broker.publish([next(made) for _ in range(size)])
    broker.close()
    return path


def values(start: int, stop: int) -> list[Any]:
    """Return what the adapter binds for the messages of these numbers, but queue and time."""
    args = [b'{"number":%d}' % number for number in range(start, stop)]
    ids = b"".join(_ids.new() for _ in args)
    shared = ["numbered", 0, 0, 30_000, 900_000, 5, 3, 10, None, 1, None]
    return [shared, ids, blobs(args), len(args)]


class Bare:
    """One connection to a queue file with the adapter's settings, and its statements by name."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, Path(sqlite.__file__).parent)
        self._sql = self._database.sql
        self.connection: apsw.Connection = self._database.connection
        self.queue: int = self.run("queue_number", "default")[0][-1]

    def run(self, statement: str, *values: Any, **named: Any) -> list[Any]:
        """Run a statement and fetch its rows."""
        return self.connection.execute(self._sql[statement], named or values).fetchall()

    def begin(self) -> None:
        """Begin as the adapter does."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable."""
        self.connection.execute("COMMIT")

    def claim(self, limit: int) -> list[Any]:
        """Grant up to `limit` messages in a transaction; return the rows."""
        boot = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000
        self.begin()
        found = self.run("grant", self.queue, limit)
        if found:
            rank, seq = 9 - found[-1][5], found[-1][18]
            self.run("lease", boot=boot, queue=self.queue, rank=rank, seq=seq)
        self.commit()
        return found

    def acknowledge(self, found: list[Any], result: bytes | None = None) -> None:
        """Delete messages of fence 1 in a transaction, and keep a result of each."""
        held = integers(row[18] for row in found)
        self.begin()
        self.run("end_leases", held, 1, 0)
        self.run("forget", held)
        if result is not None:
            ids = b"".join([row[0] for row in found])
            self.run("keep_results", ids, blobs([result] * len(found)), 1 << 42)
        self.commit()

    def store(self, values: list[Any]) -> None:
        """Insert prepared messages in a transaction."""
        shared, ids, args, count = values
        now = time.time_ns() // 1_000_000
        self.begin()
        self.run("insert", self.queue, *shared, now, ids, args)
        last = self.connection.last_insert_rowid()
        self.run("make_ready", last - count + 1, last, now)
        self.commit()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def bare_drain(path: Path, batch: int, result: bytes | None = None) -> float:
    """Claim and acknowledge everything; return jobs per second."""
    bare = Bare(path)
    done = 0
    started = time.perf_counter()
    while found := bare.claim(batch):
        bare.acknowledge(found, result)
        done += len(found)
    seconds = time.perf_counter() - started
    bare.close()
    return done / seconds


def bare_insert(path: Path, count: int, batch: int) -> float:
    """Insert prepared messages, `batch` to a commit; return jobs per second."""
    opened(path).close()
    bare = Bare(path)
    batches = [values(start, min(start + batch, count)) for start in range(0, count, batch)]
    started = time.perf_counter()
    for batch_values in batches:
        bare.store(batch_values)
    seconds = time.perf_counter() - started
    bare.close()
    return count / seconds
