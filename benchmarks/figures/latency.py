"""From the call of `enqueue` in one process to the start in an idle worker of another.

CLOCK_MONOTONIC is one clock for all processes of a machine. The bare chain is in `chain.py`. It and
the worker are both there all the time, and take turns: what else the machine does meets both.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.harness import (
    Bar,
    Context,
    Row,
    alternate,
    at_most,
    compared,
    folder,
    percentile,
    plain,
)
from benchmarks.pump import Order
from benchmarks.store import Bare, opened, url, values
from benchmarks.workers import END_SECONDS, Log, environment, working
from dibs import App

Turn = Callable[[int], list[float]]
"""Sends so many jobs; returns the milliseconds of each."""

TURNS = 30
COUNT = 40
"""Jobs in each turn."""
KINDS = {"stamp_async": "`async def`", "stamp": "`def`"}


def measure(context: Context) -> list[Row]:
    """Measure each kind beside the bare chain."""
    return [row for task, kind in KINDS.items() for row in _measure(context, task, kind)]


def _measure(context: Context, task: str, kind: str) -> list[Row]:
    with _worker(task) as real, _chain() as bare:
        name = f"enqueue to start, {kind}: p50"
        return beside(context, name, real, bare, ratio_bar=at_most(1.5), p99_bar=at_most(3))


def beside(
    context: Context,
    name: str,
    real: Turn,
    bare: Turn,
    *,
    ratio_bar: Bar | None = None,
    p99_bar: Bar | None = None,
) -> list[Row]:
    """Return the rows of a worker and a bare chain that take turns; each warms up first."""
    turns, jobs = max(2, int(TURNS * context.scale)), COUNT
    times: list[float] = []
    bare_times: list[float] = []
    real(jobs)
    bare(jobs)
    sides = alternate(
        turns, lambda: _middle(real(jobs), times), lambda: _middle(bare(jobs), bare_times)
    )
    note = f"{turns} turns of {jobs}, one at a time; bare p99 {percentile(bare_times, 0.99):.2f} ms"
    return [
        compared(name, "ms", sides, bar=at_most(1), ratio_bar=ratio_bar, note=note),
        plain("  p99", "ms", [percentile(times, 0.99)], p99_bar),
    ]


def _middle(times: list[float], into: list[float]) -> float:
    into += times
    return median(times)


@contextmanager
def _worker(task: str) -> Iterator[Turn]:
    """Yield what enqueues for an idle worker."""
    with folder() as place:
        path = place / "queue.db"
        opened(path).close()
        with enqueuing(path, url(path), task) as real:
            yield real


@contextmanager
def enqueuing(path: Path, place: str, task: str) -> Iterator[Turn]:
    """Yield what enqueues at the URL `place` for an idle worker, whose jobs note beside `path`."""
    app = App(place)
    enqueue = app.task(name=task)(_stamp).enqueue
    log = Log(path)
    with working(Order(str(path), processes=None, drain=False, url=place)):
        yield partial(turn, log, enqueue)
    log.close()
    app.close()


def _stamp(sent: int) -> None:
    """What is enqueued: the worker has a task of this name."""
    del sent


@contextmanager
def _chain() -> Iterator[Turn]:
    """Yield what commits and rings for the bare chain."""
    with folder() as place:
        path, bell = place / "queue.db", place / "bell"
        opened(path).close()
        os.mkfifo(bell)
        log = Log(path)
        bare = Bare(path)
        ringer = os.open(bell, os.O_RDWR)
        command = [sys.executable, "-m", "benchmarks.chain", "pump", str(path), str(bell)]
        with subprocess.Popen(command, env=environment(path), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()

            def send(sent: int) -> None:
                bare.store(values(sent, sent + 1))
                os.write(ringer, b"!")

            yield partial(turn, log, send)
            os.close(ringer)
            child.wait(END_SECONDS)
        bare.close()
        log.close()


def turn(log: Log, send: Callable[[int], object], jobs: int) -> list[float]:
    """Send jobs, one at a time; return the milliseconds of each."""
    before = len(log.lines)
    send_each(log, jobs, send)
    return [(started - sent) / 1e6 for sent, started in log.lines[before:]]


def send_each(log: Log, count: int, send: Callable[[int], object]) -> None:
    """Send jobs one at a time, each when the last one has long started."""
    pause = partial(random.Random(1).uniform, 0.003, 0.008)
    for number in range(len(log.lines), len(log.lines) + count):
        send(time.monotonic_ns())
        log.wait(number + 1)
        time.sleep(pause())


def latencies(log: Log) -> list[float]:
    """Close a log; return the milliseconds of its jobs, but for the first tenth."""
    lines = log.close()
    warm = lines[len(lines) // 10 :]
    return [(started - sent) / 1e6 for sent, started in warm]
