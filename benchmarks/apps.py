"""The tasks that are measured: `benchmarks.apps:app`, its broker named by DIBS_URL.

Must never: cost more than the figure says; what a job notes goes into the FIFO BENCH_LOG, one line
in one write, so that jobs of several processes can share it. Called by the runners of a worker, and
by producers.
"""

import asyncio
import ctypes
import os
import resource
import time

from dibs import App

app = App()


def note(*numbers: int) -> None:
    """Add a line of numbers to the log of this run."""
    descriptor = os.open(os.environ["BENCH_LOG"], os.O_WRONLY)
    try:
        os.write(descriptor, (" ".join(map(str, numbers)) + "\n").encode())
    finally:
        os.close(descriptor)


@app.task
async def noop_async() -> None:
    """Do nothing, on the event loop."""


@app.task
def noop() -> None:
    """Do nothing, in a thread."""


@app.task
async def answer_async() -> str:
    """Return a word that is kept, from the event loop."""
    return "done"


@app.task
def answer() -> str:
    """Return a word that is kept, from a thread."""
    return "done"


@app.task
async def ended() -> int:
    """Return when it ended."""
    return time.monotonic_ns()


@app.task
def numbered(number: int) -> None:
    """Do nothing with a number."""
    del number


@app.task
async def nap() -> None:
    """Wait 20 ms."""
    await asyncio.sleep(0.02)


@app.task
async def stamp_async(sent: int) -> None:
    """Note when it was sent and when it started."""
    started = time.monotonic_ns()
    note(sent, started)


@app.task
def stamp(sent: int) -> None:
    """Note when it was sent and when it started, from a thread."""
    started = time.monotonic_ns()
    note(sent, started)


@app.task
def fan_out(count: int) -> None:
    """Enqueue other jobs one by one; note how many errors there were and the longest call."""
    longest = errors = 0
    for _ in range(count):
        before = time.monotonic_ns()
        try:
            noop.enqueue()
        except Exception:
            errors += 1
        longest = max(longest, time.monotonic_ns() - before)
    note(errors, longest)


@app.task
async def fan_out_async(count: int) -> None:
    """As `fan_out`, from the event loop."""
    longest = errors = 0
    for _ in range(count):
        before = time.monotonic_ns()
        try:
            await noop_async.aenqueue()
        except Exception:
            errors += 1
        longest = max(longest, time.monotonic_ns() - before)
    note(errors, longest)


@app.task
async def healthy(number: int) -> None:
    """Note the start and the end, 10 ms apart."""
    note(number, os.getpid(), time.monotonic_ns(), 0)
    await asyncio.sleep(0.01)
    note(number, os.getpid(), time.monotonic_ns(), 1)


@app.task
def poison() -> None:
    """Note the time and read address 0."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    note(-1, os.getpid(), time.monotonic_ns(), 0)
    ctypes.string_at(0)
