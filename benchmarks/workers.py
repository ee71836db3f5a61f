"""Workers and other processes, started, measured and ended.

Owns: every child process of a benchmark; each is ended by its own handle.
Must never: leave one behind. Called by the figures.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.pump import Order, Seen
from benchmarks.store import url

ROOT = Path(__file__).parent.parent
END_SECONDS = 30.0
LONGEST_SECONDS = 240.0


def environment(path: Path, place: str = "") -> dict[str, str]:
    """Return the environment of a process whose app uses the queue file at `path`, or a URL."""
    log, used = path.with_suffix(".log"), place or url(path)
    return os.environ | {"DIBS_URL": used, "BENCH_LOG": str(log), "PYTHONPATH": str(ROOT)}


class Log:
    """What jobs note: a FIFO beside the queue file. A file would add to what commits wait for.

    `lines` grows while the log is open.
    """

    def __init__(self, path: Path) -> None:
        self.lines: list[list[int]] = []
        self._path = path.with_suffix(".log")
        self._new = threading.Condition()
        os.mkfifo(self._path)
        # Open for both ways, so that it does not end when a process that noted something does.
        self._descriptor = os.open(self._path, os.O_RDWR)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self, count: int) -> None:
        """Wait until there are so many lines."""
        with self._new:
            if not self._new.wait_for(lambda: len(self.lines) >= count, END_SECONDS):
                raise RuntimeError(f"{len(self.lines)} of {count} lines were noted")

    def close(self) -> list[list[int]]:
        """Return all lines; none is noted after this."""
        os.write(self._descriptor, b"end\n")
        self._thread.join(END_SECONDS)
        os.close(self._descriptor)
        return self.lines

    def _read(self) -> None:
        with open(self._descriptor, "rb", buffering=1 << 16, closefd=False) as stream:
            while (text := stream.readline()) != b"end\n":
                with self._new:
                    self.lines.append([int(number) for number in text.split()])
                    self._new.notify_all()


def drained(order: Order) -> Seen:
    """Run a worker until it stops by itself; return what it saw."""
    child = _start(order)
    out, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"the worker ended with exit code {child.returncode}")
    return msgspec.json.decode(out, type=Seen)


class Worker:
    """A worker that runs until `stop`; `seen` is what it saw, afterwards."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self.pid = child.pid
        self._child = child
        self.seen = Seen()

    def stop(self, seconds: float = END_SECONDS) -> Seen:
        """End it in order; return what it saw."""
        if self._child.returncode is None:
            out, _ = self._child.communicate(timeout=seconds)
            self.seen = msgspec.json.decode(out, type=Seen)
        return self.seen

    def finish(self) -> Seen:
        """Wait until it ends by itself; return what it saw."""
        return self.stop(LONGEST_SECONDS)


@contextmanager
def working(order: Order) -> Iterator[Worker]:
    """Start a worker that is stopped at the end, at the latest."""
    child = _start(order)
    try:
        worker = Worker(child)
        yield worker
        worker.stop()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _start(order: Order) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.pump", msgspec.json.encode(order).decode()]
    return subprocess.Popen(
        command,
        env=environment(Path(order.path), order.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@contextmanager
def command(path: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `dibs worker` for the tasks, as a user does; it is ended at the end, at the latest."""
    whole = [sys.executable, "-m", "dibs", "worker", "benchmarks.apps:app", *arguments]
    child = subprocess.Popen(
        whole,
        env=environment(path),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield child
        child.terminate()
        child.wait(END_SECONDS)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    pids = [int(child) for child in children.read_text().split()]
    return [pid, *(one for child in pids for one in family(child))]


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process and its descendants, so far."""
    total = 0
    for one in family(pid):
        for stat in Path(f"/proc/{one}/task").glob("*/schedstat"):
            total += int(stat.read_text().split()[0])
    return total / 1e9


def memory_megabytes(pid: int) -> float:
    """Return the proportional set size of a process and its descendants."""
    total = 0
    for one in family(pid):
        for text in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if text.startswith("Pss:"):
                total += int(text.split()[1])
    return total / 1024
