"""PostgreSQL's dead rows over ten million jobs: how far the tables grow, and what it costs.

One worker runs all the time while jobs are published in front of it, twenty thousand at once, on a
private server with the settings that it comes with, autovacuum among them.
Must never: vacuum or analyse by itself.
"""

import time
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
from msgspec import Struct

from benchmarks.figures.postgres import made, opened, running
from benchmarks.harness import Context, Row, folder, plain
from benchmarks.pump import Order
from benchmarks.workers import working
from dibs.brokers.contract import Broker

JOBS = 10_000_000
PARTS = 10
BATCH = 20_000
CALL = 4_000
"""Jobs that are published in one call."""
LONGEST_SECONDS = 60.0
MEGABYTE = 1 << 20

SIZES = """
SELECT sum(pg_total_relation_size(relid)), sum(n_dead_tup), sum(autovacuum_count)
FROM pg_stat_user_tables WHERE schemaname = 'dibs'
"""
ANY = "SELECT EXISTS (SELECT FROM dibs.message)"
THERE = "SELECT EXISTS (SELECT FROM dibs.message WHERE id = %s::uuid)"
"""A job by its id, and about all that came before it. To count them would read the dead rows."""


class Part(Struct, frozen=True):
    """What was seen at the end of a part: jobs a second, bytes, dead rows, and vacuums so far."""

    rate: float
    size: int
    dead: int
    vacuums: int


def measure(context: Context) -> list[Row]:
    """Publish and drain in parts, and look after each."""
    jobs = context.jobs(JOBS)
    parts = list(_parts(jobs // PARTS))
    rates = [part.rate for part in parts]
    sizes = [part.size / MEGABYTE for part in parts]
    dead = [float(part.dead) for part in parts]
    series = "after each tenth: " + ", ".join(f"{size:,.0f}" for size in sizes)
    swept = f"{parts[-1].vacuums:,} times autovacuum; " + ", ".join(f"{n:,.0f}" for n in dead)
    return [
        plain(f"PostgreSQL: jobs through, last tenth of {jobs:,}", "jobs/s", rates[-1:], None),
        plain("  to the first tenth", "", [rates[-1] / rates[0]], None),
        plain("  tables and indexes, largest", "MB", [max(sizes)], None, series),
        plain("  dead rows, most", "", [max(dead)], None, swept),
    ]


def _parts(jobs: int) -> Iterator[Part]:
    batches = jobs // BATCH
    with (
        running() as url,
        folder() as place,
        opened(url) as broker,
        psycopg.connect(url, autocommit=True) as looking,
        working(Order(str(place / "queue"), url=url, drain=False)) as worker,
    ):
        before = "0" * 32
        for _ in range(PARTS):
            started = time.perf_counter()
            for _ in range(batches):
                last = _publish(broker)
                _wait(looking, THERE, before)  # so that two batches are there at the most
                before = last.hex()
            rate = batches * BATCH / (time.perf_counter() - started)
            row = looking.execute(SIZES).fetchone()
            assert row is not None
            yield Part(rate, *map(int, row))
        _wait(looking, ANY)
        seen = worker.stop()
    if seen.done != PARTS * batches * BATCH:
        raise RuntimeError(f"{seen.done:,} of {PARTS * batches * BATCH:,} jobs were done")


def _publish(broker: Broker) -> bytes:
    """Publish a batch; return the id of its last job."""
    jobs = made("noop_async", BATCH)
    for at in range(0, BATCH, CALL):
        broker.publish(jobs[at : at + CALL])
    return jobs.ids[-1]


def _wait(looking: "psycopg.Connection[Any]", question: LiteralString, *about: str) -> None:
    """Ask every 5 ms until the answer is no."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while looking.execute(question, about).fetchone() == (True,):
        if time.monotonic() > deadline:
            raise RuntimeError(f"a batch was not done in {LONGEST_SECONDS:g} s")
        time.sleep(0.005)
