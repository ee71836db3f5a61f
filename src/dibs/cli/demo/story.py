"""The story of the demo, in the order in which it happens.

Owns: the folder of one demo, and everything that is printed.
Must never: leave a process or, unless told to, a file behind; change a user's photo.
Called by: `dibs demo`.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
from msgspec import Struct

from dibs import __version__
from dibs.brokers.contract import Broker
from dibs.brokers.url import open_broker
from dibs.cli.demo.audit import Audit, audit, read_runs
from dibs.cli.demo.processes import Processes
from dibs.cli.demo.show import Show, opened
from dibs.clock import SystemClock
from dibs.errors import UserError, WorkerError
from dibs.text import duration

LOOK_SECONDS = 0.1
KILL_AT = 0.4
"""The share of the jobs that are done when a worker is killed."""

SHORTEST_SECONDS = 4.0
SHORTEST_WAIT = 0.05
"""So few photos that they would be done before anybody could look: their jobs wait as well."""

MOST_TRIES = 50
"""How often a worker is caught between two jobs before that is an error."""

STALL_SECONDS = 60.0
"""Nothing done for so long: something is wrong, and the audit will say what is missing."""


def tell(count: int | None, slots: int, own: Path | None, *, keep: bool) -> int:
    """Run the demo; return its exit code."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="dibs-demo-")).resolve()
    os.environ["DIBS_URL"] = f"sqlite:///{folder}/queue.db"
    try:
        with opened() as show, Processes(folder) as processes:
            show.say(f"dibs {__version__} demo, in {folder}")
            verdict, figures = Demo(folder, slots, show, processes).run(count, own)
        click.echo(report(verdict, figures))
        if keep:
            click.echo(f"kept: {folder}")
        click.echo(f"everything took {duration(time.monotonic() - began)}")
        return 0 if verdict.passed else 1
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


class Figures(Struct, frozen=True):
    """What the demo itself counted: jobs, and how many were done in a second."""

    published: int
    rate: float


class Demo:
    """One run of the demo."""

    def __init__(self, folder: Path, slots: int, show: Show, processes: Processes) -> None:
        self._folder = folder
        self._slots = slots
        self._show = show
        self._processes = processes

    def run(self, count: int | None, own: Path | None) -> tuple[Audit, Figures]:
        """Make or find photos, publish, work, kill, drain, audit."""
        photos = self._thumbnails_of(self._made(count or 0) if own is None else self._found(own))
        if own is not None and count is not None:
            photos = dict(list(photos.items())[:count])
        published = self._publish(photos)
        began = time.monotonic()
        killed = self._work(published)
        figures = Figures(published, published / (time.monotonic() - began))
        self._show.step("audited", published)
        return audit(photos, self._folder, killed, self._show.done), figures

    def _made(self, count: int) -> list[Path]:
        """Make photos, with a process on every core."""
        began = time.monotonic()
        photos = self._folder / "photos"
        photos.mkdir()
        cores = os.cpu_count() or 1
        edges = [count * core // cores for core in range(cores + 1)]
        makers = [
            self._processes.start(
                ["dibs.cli.demo.photos", str(photos), str(edges[core]), str(edges[core + 1])]
            )
            for core in range(cores)
        ]
        self._show.step("made", count)
        for maker in makers:
            while maker.poll() is None:
                self._show.done(len(os.listdir(photos)))
                self._nap()
            if maker.returncode:
                raise WorkerError(f"making photos failed:\n{self._processes.printed(maker)}")
        self._show.done(count)
        self._show.say(f"made {count:,} photos in {duration(time.monotonic() - began)}")
        return sorted(photos.iterdir())

    def _found(self, own: Path) -> list[Path]:
        from dibs.cli.demo.photos import found_in

        found = list(found_in(own))
        if not found:
            raise UserError(f"there are no photos in {own} that Pillow can open")
        self._show.say(f"found {len(found):,} photos in {own}; they are only read")
        return found

    def _thumbnails_of(self, photos: list[Path]) -> dict[Path, Path]:
        thumbnails = self._folder / "thumbnails"
        thumbnails.mkdir()
        return {photo: thumbnails / f"{number:06}.jpg" for number, photo in enumerate(photos)}

    def _publish(self, photos: Mapping[Path, Path]) -> int:
        from dibs.cli.demo.tasks import app, resize

        began = time.monotonic()
        wait = SHORTEST_SECONDS * self._slots / len(photos)
        wait = round(wait, 3) if wait > SHORTEST_WAIT else 0
        with contextlib.closing(app):
            calls = (resize.bind(str(photo), str(to), wait) for photo, to in photos.items())
            count = app.enqueue_many(calls)
        took = time.monotonic() - began
        if wait:
            self._show.say(
                f"each job waits {wait:g} s, so that few of them have a middle to die in"
            )
        self._show.say(f"published {count:,} jobs in {duration(took)}, on disk when it returned")
        return count

    # Working

    def _work(self, published: int) -> int:
        """Let two workers work, kill one on the way; return the process id of the killed one."""
        from dibs.cli.demo.tasks import VISIBILITY_TIMEOUT

        url = os.environ["DIBS_URL"]
        broker = open_broker(url, worker_id=os.urandom(16), clock=SystemClock())
        with contextlib.closing(broker):
            half = self._slots // 2
            victim, other = self._worker(self._slots - half), self._worker(half)
            self._show.say(
                f"workers {victim.pid} and {other.pid} started, {self._slots} slots in all"
            )
            self._show.step("done", published)
            self._until(lambda left: left <= published * (1 - KILL_AT), broker, published)
            caught = self._kill_in_the_middle(victim)
            self._show.say(
                f"killed worker {victim.pid} and its runners with SIGKILL, in the middle of"
                f" {caught} jobs; they come back when their leases run out, after"
                f" {VISIBILITY_TIMEOUT} s at most"
            )
            another = self._worker(self._slots - half)
            self._show.say(f"worker {another.pid} takes its place")
            self._until(lambda left: left == 0, broker, published)
        for worker in (other, another):
            if self._processes.stop(worker) != 0:
                raise WorkerError(f"a worker failed:\n{self._processes.printed(worker)}")
        return victim.pid

    def _worker(self, slots: int) -> subprocess.Popen[bytes]:
        processes = max(1, (os.cpu_count() or 1) // 2)
        arguments = ["-c", str(slots), "--processes", str(processes)]
        return self._processes.start(["dibs", "worker", "dibs.cli.demo.tasks:app", *arguments])

    def _until(self, reached: Callable[[int], bool], broker: Broker, published: int) -> None:
        """Wait until as many jobs are left as `reached` says, or nothing moves any more."""
        inspector = broker.inspector()
        fewest, since = published + 1, time.monotonic()
        while True:
            counts = inspector.queues()
            left = sum((q.ready or 0) + (q.scheduled or 0) + (q.in_flight or 0) for q in counts)
            self._show.done(published - left)
            if reached(left):
                return
            now = time.monotonic()
            if left < fewest:
                fewest, since = left, now
            elif now > since + STALL_SECONDS:
                self._show.say(f"nothing was done for {duration(STALL_SECONDS)}: giving up")
                return
            self._nap()

    def _kill_in_the_middle(self, victim: subprocess.Popen[bytes]) -> int:
        """Kill a worker while it runs jobs; return how many."""
        for _ in range(MOST_TRIES):
            # Paused, it cannot finish them before it is killed.
            self._processes.pause(victim)
            unfinished = read_runs(self._folder).unfinished_by.get(victim.pid)
            if unfinished:
                self._processes.kill(victim)
                return len(unfinished)
            self._processes.go_on(victim)
            self._nap()
        raise WorkerError(f"a worker runs nothing:\n{self._processes.printed(victim)}")

    def _nap(self) -> None:
        time.sleep(LOOK_SECONDS)


def report(verdict: Audit, figures: Figures) -> str:
    """Return the table of the audit, and what it means."""
    done = f"a correct thumbnail is there; {figures.rate:,.0f} jobs/s, the killing included"
    rows = [
        ("jobs published", figures.published, "one for each photo"),
        ("done", verdict.correct, done),
        ("delivered more than once", verdict.repeated, _why_repeated(verdict)),
        ("lost", verdict.lost, "photos without a thumbnail"),
        ("wrong", verdict.wrong + verdict.strange, "thumbnails other than one made anew"),
    ]
    table = [f"  {name:26}{number:>9,}   {note}".rstrip() for name, number, note in rows]
    passed = "audit passed: every photo has one correct thumbnail"
    lines = [
        "",
        *table,
        "",
        "A job delivered twice writes the same thumbnail twice, each time under another name",
        "that is then changed: running the task twice leaves what running it once does.",
        passed if verdict.passed else "AUDIT FAILED",
    ]
    return "\n".join(lines)


def _why_repeated(verdict: Audit) -> str:
    others = verdict.repeated - verdict.repeated_by_kill
    why = "the killed worker had begun them" if verdict.repeated else ""
    return f"{why}; {others:,} for another reason" if others else why
