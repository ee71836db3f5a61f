"""From the start of the process `dibs worker` to its first job, done and acknowledged.

The app is a small one of its own. Beside it stands what no worker can do without: an interpreter
that starts and imports msgspec and apsw.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Context, Row, alternate, at_most, compared, folder
from benchmarks.store import filled, opened, url

APP = """
from dibs import App

app = App()


@app.task
def first() -> None:
    pass
"""
LONGEST_SECONDS = 30.0


def measure(context: Context) -> list[Row]:
    """Start workers, each on a file with one job."""
    sides = alternate(context.runs * 2 + 1, _real, _bare)
    name = "process start to first job done"
    note = "bare: an interpreter that imports msgspec and apsw"
    return [compared(name, "s", sides, bar=at_most(0.25), note=note)]


def _real() -> float:
    with folder() as place:
        (place / "small.py").write_text(APP)
        path = filled(place / "queue.db", "first", 1)
        broker = opened(path)
        inspector = broker.inspector()
        made = os.environ | {"DIBS_URL": url(path)}
        started = time.monotonic()
        child = _spawned([sys.executable, "-m", "dibs", "worker", "small:app"], place, made)
        try:
            while any(counts.ready or counts.in_flight for counts in inspector.queues()):
                if time.monotonic() > started + LONGEST_SECONDS:
                    raise RuntimeError("the first job was not done")
                time.sleep(0.001)
            return time.monotonic() - started
        finally:
            child.terminate()
            child.wait(LONGEST_SECONDS)
            broker.close()


def _bare() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import msgspec, apsw"], check=True)
    return time.monotonic() - started


def _spawned(
    command: list[str], place: Path, environment: dict[str, str]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
