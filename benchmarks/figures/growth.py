"""PostgreSQL's dead rows over ten million jobs: how far the tables grow, and what it costs.

One worker runs all the time while jobs are published in front of it, some ten thousand at once, on
a private server with the settings that it comes with, autovacuum among them.
Must never: vacuum or analyse by itself.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from msgspec import Struct

from benchmarks.figures.postgres import filled
from benchmarks.harness import Context, Row, at_least, folder, plain
from benchmarks.pump import Order
from benchmarks.workers import working
from tests.servers.postgres import programs, serving

JOBS = 10_000_000
PARTS = 10
BATCH = 40_000
AHEAD = 20_000
"""So many may be left of a batch when the next is published."""
LONGEST_SECONDS = 60.0
MEGABYTE = 1 << 20

SIZES = """
SELECT sum(pg_total_relation_size(relid)), sum(n_dead_tup), sum(autovacuum_count)
FROM pg_stat_user_tables WHERE schemaname = 'dibs'
"""
LEFT = "SELECT count(*) FROM dibs.message"


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
        plain("  to the first tenth", "", [rates[-1] / rates[0]], at_least(0.9)),
        plain("  tables and indexes, largest", "MB", [max(sizes)], None, series),
        plain("  dead rows, most", "", [max(dead)], None, swept),
    ]


def _parts(jobs: int) -> Iterator[Part]:
    with _serving() as url, folder() as place, psycopg.connect(url, autocommit=True) as looking:
        filled(url, 0)
        with working(Order(str(place / "queue"), url=url, drain=False)) as worker:
            for _ in range(PARTS):
                started = time.perf_counter()
                for at in range(0, jobs, BATCH):
                    filled(url, min(BATCH, jobs - at))
                    _wait(looking, AHEAD)
                _wait(looking, 0)  # the last ones too
                rate = jobs / (time.perf_counter() - started)
                yield Part(rate, *_numbers(looking, SIZES))
            seen = worker.stop()
    if seen.done != jobs * PARTS:
        raise RuntimeError(f"{seen.done:,} of {jobs * PARTS:,} jobs were done")


@contextmanager
def _serving() -> Iterator[str]:
    binaries = programs()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed: apt install postgresql")
    with serving(binaries, "fsync=on") as server:
        yield server.url("postgres")


def _wait(looking: "psycopg.Connection[Any]", most: int) -> None:
    """Wait until no more than so many jobs are there."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while (left := _numbers(looking, LEFT)[0]) > most:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{left:,} jobs were not done in {LONGEST_SECONDS:g} s")
        time.sleep(0.02)


def _numbers(looking: "psycopg.Connection[Any]", question: LiteralString) -> list[int]:
    row = looking.execute(question).fetchone()
    assert row is not None
    return [int(number) for number in row]
