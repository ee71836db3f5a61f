"""Eight processes enqueue one by one while a worker drains a million jobs.

Only calls that began between the worker's first and last settlement count.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median

import msgspec

from benchmarks.harness import Context, Row, at_least, at_most, folder, percentile, plain
from benchmarks.producers import Calls
from benchmarks.pump import Order
from benchmarks.store import filled
from benchmarks.workers import environment, working

COUNT = 1_000_000
PRODUCERS = 8


def measure(context: Context) -> list[Row]:
    """Measure once: a million jobs are enough to be their own median."""
    count = context.jobs(COUNT)
    with folder() as place:
        path = filled(place / "queue.db", "noop_async", count)
        with _producers(path) as children:
            order = Order(str(path), drain=False, stop_after=count)
            with working(order) as worker:
                time.sleep(0.3)
                for child in children:
                    assert child.stdin is not None
                    child.stdin.write(b"\n")
                    child.stdin.flush()
                seen = worker.finish()
            produced = [
                msgspec.json.decode(child.communicate()[0], type=Calls) for child in children
            ]
    span = range(int(seen.first * 1e9), int(seen.last * 1e9))
    took = [[ns / 1e6 for at, ns in one.calls if at in span] for one in produced]
    every = [ms for one in took for ms in one]
    errors = [text for one in produced for text in one.errors] + seen.troubles
    counts = [len(one) for one in took]
    drained = f"{count:,} drained at {seen.rate:,.0f}/s, {len(every):,} enqueued meanwhile"
    note = (
        f"{drained} at {len(every) / (seen.last - seen.first):,.0f}/s, p50 {median(every):.2f} ms"
    )
    said = "; ".join(sorted(set(errors))[:3])
    return [
        plain(
            "8 producers beside a drain: p99", "ms", [percentile(every, 0.99)], at_most(10), note
        ),
        plain("  longest call", "ms", [max(every)], at_most(200)),
        plain("  slowest process to the mean", "", [min(counts) / fmean(counts)], at_least(0.5)),
        plain("  busy errors", "", [float(len(errors))], at_most(0), said),
    ]


@contextmanager
def _producers(path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    command = [sys.executable, "-m", "benchmarks.producers"]
    made = environment(path)
    children = [
        subprocess.Popen(command, env=made, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(PRODUCERS)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
