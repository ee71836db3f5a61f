"""From the call of `enqueue` in one process to the start in an idle worker of another.

CLOCK_MONOTONIC is one clock for all processes of a machine. The bare chain is in `chain.py`.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from benchmarks.harness import Context, Row, alternate, at_most, compared, folder, percentile, plain
from benchmarks.pump import Order
from benchmarks.store import Bare, opened, url, values
from benchmarks.workers import END_SECONDS, Log, environment, working
from dibs import App

COUNT = 400
KINDS = {"stamp_async": "`async def`", "stamp": "`def`"}


def measure(context: Context) -> list[Row]:
    """Measure each kind beside the bare chain."""
    return [row for task, kind in KINDS.items() for row in _measure(context, task, kind)]


def _measure(context: Context, task: str, kind: str) -> list[Row]:
    count = context.jobs(COUNT)
    high: list[float] = []
    bare_high: list[float] = []

    def real() -> float:
        times = _real(task, count)
        high.append(percentile(times, 0.99))
        return median(times)

    def bare() -> float:
        times = _bare(count)
        bare_high.append(percentile(times, 0.99))
        return median(times)

    name = f"enqueue to start, {kind}: p50"
    sides = alternate(context.runs, real, bare)
    note = f"{count} jobs, one at a time; bare p99 {median(bare_high):.2f} ms"
    return [
        compared(name, "ms", sides, bar=at_most(1), ratio_bar=at_most(1.5), note=note),
        plain("  p99", "ms", high, at_most(3)),
    ]


def _real(task: str, count: int) -> list[float]:
    with folder() as place:
        path = place / "queue.db"
        opened(path).close()
        app = App(url(path))
        enqueue = app.task(name=task)(_stamp).enqueue
        log = Log(path)
        with working(Order(str(path), processes=None, drain=False)):
            send_each(log, count, enqueue)
        return latencies(log)


def _stamp(sent: int) -> None:
    """What is enqueued: the worker has a task of this name."""
    del sent


def _bare(count: int) -> list[float]:
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

            send_each(log, count, send)
            os.close(ringer)
            child.wait(END_SECONDS)
        bare.close()
        return latencies(log)


def send_each(log: Log, count: int, send: Callable[[int], object]) -> None:
    """Send jobs one at a time, each when the last one has long started; return milliseconds."""
    pause = partial(random.Random(1).uniform, 0.003, 0.008)
    for number in range(count):
        send(time.monotonic_ns())
        log.wait(number + 1)
        time.sleep(pause())


def latencies(log: Log) -> list[float]:
    lines = log.close()
    warm = lines[len(lines) // 10 :]
    return [(started - sent) / 1e6 for sent, started in warm]
