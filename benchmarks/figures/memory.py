"""Memory of a worker with one runner after 100,000 and after 1,000,000 jobs, and the file's size.

The memory is the proportional set size: what processes share is divided among them. The solo runner
that a worker keeps in reserve is counted too, so it is awaited before the first look.
"""

import threading
import time
from pathlib import Path

from benchmarks.harness import Context, Row, at_most, folder, plain
from benchmarks.store import filled, opened
from benchmarks.workers import command, family, memory_megabytes

FIRST = 100_000
LAST = 1_000_000
LONGEST_SECONDS = 120.0
GIVE_BACK_SECONDS = 15.0
MEGABYTE = 1 << 20


class Sizes:
    """The largest sizes of the file and its log, looked at every 20 ms in a thread."""

    def __init__(self, path: Path) -> None:
        self.file = self.log = 0
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def now(self) -> tuple[int, int]:
        """Return the sizes of the file and of its log."""
        log = self._path.with_name(self._path.name + "-wal")
        return self._path.stat().st_size, log.stat().st_size if log.exists() else 0

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            file, log = self.now()
            self.file, self.log = max(self.file, file), max(self.log, log)


def measure(context: Context) -> list[Row]:
    """Drain in portions with one worker, looking after the first and the last."""
    first, last = context.jobs(FIRST), context.jobs(LAST)
    with folder() as place:
        path = _portion(place / "queue.db", first)
        sizes = Sizes(path)
        with command(path, "-c", "50", "--processes", "1") as child:
            _wait_until_empty(path)
            _wait_for_spare(child.pid)
            used = [memory_megabytes(child.pid)]
            for _ in range(last // first - 1):
                _portion(path, first)
                _wait_until_empty(path)
                used.append(memory_megabytes(child.pid))
            time.sleep(GIVE_BACK_SECONDS)
            rest, rest_log = (size / MEGABYTE for size in sizes.now())
        sizes.stop()
    file, log = sizes.file / MEGABYTE, sizes.log / MEGABYTE
    series = "after each portion: " + ", ".join(f"{megabytes:.1f}" for megabytes in used)
    note = f"{GIVE_BACK_SECONDS:g} s after the last job, of {file:.1f} MB"
    return [
        plain(f"memory after {first:,} jobs: pump, runner, spare", "MB", used[:1], at_most(70)),
        plain(f"  growth to {last:,}", "MB", [used[-1] - used[0]], at_most(3), series),
        plain("  longest log (WAL)", "MB", [log], at_most(64)),
        plain("  the log after the drain", "MB", [rest_log], at_most(16)),
        plain("  the file after the drain", "MB", [rest], at_most(max(1.0, file / 10)), note),
    ]


def _portion(path: Path, count: int) -> Path:
    """Publish jobs of both kinds."""
    return filled(filled(path, "noop", count // 2), "noop_async", count - count // 2)


def _wait_for_spare(pid: int) -> None:
    """Return when the pump's two children, the runner and the spare, have long started."""
    while len(family(pid)) < 3:
        time.sleep(0.05)
    time.sleep(1)


def _wait_until_empty(path: Path) -> None:
    broker = opened(path)
    inspector = broker.inspector()
    deadline = time.monotonic() + LONGEST_SECONDS
    while any(counts.ready or counts.in_flight for counts in inspector.queues()):
        if time.monotonic() > deadline:
            raise RuntimeError("the queue was not drained")
        time.sleep(0.05)
    broker.close()
