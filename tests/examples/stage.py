"""A folder with the programs of examples/, and what a test starts in it.

Owns: the processes that a test starts; none of them is left.
Must never: stand in for a part of dibs or of an example. Workers are `dibs worker`.
Called by: the tests of examples/, through the fixture `stage`.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock
from dibs.message import DeadMessage
from tests.worker.workers import SECONDS, Started, until
from tools import ROOT

EXAMPLES = ROOT / "examples"

VANISH = """
import importlib, os, signal, sys
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock

app = importlib.import_module(sys.argv[1]).app
broker = open_broker(app.url, worker_id=os.urandom(16), clock=SystemClock())
(lease,) = broker.claim([task.info.queue for task in app.tasks.values()], limit=1).leases
task = app.tasks[lease.message.task]
args, kwargs = task.codec.decode(lease.message.args)
task(*args, **kwargs)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A worker that dies after the work and before the acknowledgement."""


class Stage:
    """One example at work, whose queue is the file `queue`."""

    def __init__(self, folder: Path) -> None:
        for example in EXAMPLES.glob("*.py"):
            shutil.copy(example, folder)
        self.folder = folder
        self.started: list[Started] = []

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run `python ARGUMENTS` to its end; return what it printed to stdout."""
        command = [sys.executable, "-W", "error", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def vanish(self, module: str) -> None:
        """Have a worker do one job and die before it can acknowledge it."""
        self.run("-c", VANISH, module, code=-signal.SIGKILL)

    def start(self, *arguments: str) -> Started:
        """Start `python ARGUMENTS`."""
        self.started.append(Started(self.folder, [sys.executable, "-W", "error", *arguments]))
        return self.started[-1]

    def worker(self, module: str, *arguments: str) -> Started:
        """Start `dibs worker MODULE:app` and wait until it has said what it does."""
        worker = self.start("-m", "dibs", "worker", f"{module}:app", *arguments)
        worker.line(r"^  slots ")
        return worker

    def drain(self, module: str) -> Started:
        """Run `dibs worker MODULE:app --drain` to its end."""
        worker = self.worker(module, "--drain")
        assert worker.end() == 0, worker.text
        return worker

    def left(self, queue: str) -> int:
        """Return how many jobs are ready, scheduled or in flight in a queue file."""
        broker = open_sqlite(self.folder / queue, clock=SystemClock(), worker_id=os.urandom(16))
        counts = broker.inspector().queues()
        broker.close()
        return sum((c.ready or 0) + (c.scheduled or 0) + (c.in_flight or 0) for c in counts)

    def dead(self, queue: str) -> list[DeadMessage]:
        """Return the dead letters of a queue file."""
        broker = open_sqlite(self.folder / queue, clock=SystemClock(), worker_id=os.urandom(16))
        dead = broker.inspector().dead()
        broker.close()
        return dead

    def until_done(self, queue: str) -> None:
        """Wait until no job is left but dead letters."""
        try:
            until(lambda: not self.left(queue), f"the jobs of {queue} are done")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n" + "\n".join(s.text for s in self.started)) from None

    def parts(self) -> list[str]:
        """Return the unfinished files."""
        return [path.name for path in self.folder.rglob(".*.*")]

    def close(self) -> None:
        """End everything."""
        for one in self.started:
            one.clear_away()
        # What outlived its job because an example is broken: its arguments name this folder.
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if os.fsencode(self.folder) in command.read_bytes():
                    os.kill(int(command.parent.name), signal.SIGKILL)
