"""`dibs worker`, a real process, on a real server: jobs done, retried, given up, and taken over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dibs import App, Reject, Retry
from dibs.brokers.contract import Broker
from tests.servers.postgres import Server
from tests.unit.postgres.conftest import Open
from tests.worker.workers import until

APP = """
from pathlib import Path
from dibs import App, Reject, Retry, context

app = App()

def note(text):
    with open("notes.txt", "a") as file:
        file.write(text + "\\n")

@app.task(queue="photos", visibility_timeout=2)
def resize(n: int) -> int:
    note(f"resize {n} {context().attempt}")
    return n * 2

@app.task(queue="photos")
def twice(n: int) -> None:
    note(f"twice {n} {context().attempt}")
    if context().attempt == 1:
        raise Retry(delay=0.1)

@app.task(queue="photos")
def never(n: int) -> None:
    raise Reject("no such photo")

@app.task(queue="photos", visibility_timeout=2)
def hold(n: int) -> None:
    note(f"hold {n} {context().attempt}")
    import time
    while not Path("go").exists():
        time.sleep(0.02)
"""


class Studio:
    """An app in a folder, its queues on the server, and its workers."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.environment = os.environ | {"DIBS_URL": url, "PYTHONPATH": str(folder)}
        (folder / "photos.py").write_text(APP)
        self.app = App(url)
        define = self.app.task(queue="photos", visibility_timeout=2)
        self.resize, self.hold = define(resize), define(hold)
        self.twice, self.never = define(twice), define(never)

    def notes(self) -> list[str]:
        path = self.folder / "notes.txt"
        return path.read_text().splitlines() if path.exists() else []

    def dibs(self, *arguments: str) -> str:
        """Run a command; return what it printed."""
        command = [sys.executable, "-m", "dibs", *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def worker(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a worker; it is killed in the end, if it is still there."""
        command = [sys.executable, "-m", "dibs", "worker", "photos:app", "-c", "4"]
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def resize(n: int) -> int:
    """What is enqueued here, and run by a worker under the same name."""
    return n


def twice(n: int) -> None:
    """As `resize`."""
    raise Retry(delay=n)


def never(n: int) -> None:
    """As `resize`."""
    raise Reject(str(n))


def hold(n: int) -> None:
    """As `resize`."""
    del n


@pytest.fixture
def studio(tmp_path: Path, url: str) -> Iterator[Studio]:
    """A studio with nothing to do."""
    studio = Studio(tmp_path, url)
    yield studio
    studio.app.close()


def until_left(left: tuple[int, int, int, int], broker: Broker, what: str) -> None:
    """Wait until so much is ready, scheduled, in flight and dead."""

    def found() -> tuple[int | None, ...]:
        (one,) = (one for one in broker.inspector().queues() if one.name == "photos")
        return one.ready, one.scheduled, one.in_flight, one.dead

    until(lambda: found() == left, what)


def do_everything(studio: Studio, opened: Open) -> None:
    """Have jobs done, with results; delayed; retried; given up; and shown by the commands."""
    with studio.worker():
        assert studio.resize.enqueue(4).result(timeout=30) == 8
        assert studio.resize.options(delay=0.2).enqueue(5).result(timeout=30) == 10
        studio.twice.enqueue(1).wait(timeout=30)
        studio.app.enqueue_many(studio.resize.bind(n) for n in range(300))
        studio.never.enqueue(1)
        until_left((0, 0, 0, 1), opened(), "all is done")
    notes = studio.notes()
    assert {f"resize {n} 1" for n in range(300)} <= set(notes)
    assert len(notes) == 300 + 2 + 2
    assert [note for note in notes if "twice" in note] == ["twice 1 1", "twice 1 2"]
    assert "PostgreSQL, synchronous_commit=on" in (studio.folder / "worker.log").read_text()
    (queue,) = json.loads(studio.dibs("queues", "--json"))["queues"]
    assert (queue["name"], queue["ready"], queue["dead"]) == ("photos", 0, 1)
    assert "no such photo" in studio.dibs("dlq", "list")
    assert "ok" in studio.dibs("doctor")


def test_a_worker_does_what_it_does_on_any_broker(studio: Studio, opened: Open) -> None:
    do_everything(studio, opened)


def test_rule_23_what_a_killed_worker_held_comes_back(studio: Studio, opened: Open) -> None:
    """Its leases run out, the loss is counted, and another worker takes over."""
    for n in range(3):
        studio.hold.enqueue(n)
    with studio.worker() as first:
        until(lambda: len(studio.notes()) == 3, "the jobs run")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        (studio.folder / "go").touch()
        with studio.worker():
            until_left((0, 0, 0, 0), opened(), "the jobs are done")
    assert sorted(studio.notes()[3:]) == ["hold 0 2", "hold 1 2", "hold 2 2"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_rule_25_the_same_worker_goes_on_when_the_server_is_back(
    studio: Studio, opened: Open, server: Server, how: int
) -> None:
    """By itself, within ten seconds, with what it held, and so do producers."""
    studio.hold.enqueue(0)
    with studio.worker() as worker:
        until(lambda: len(studio.notes()) == 1, "the job runs")
        server.stop(how)
        (studio.folder / "go").touch()  # so it ends while nobody can be told
        server.start()
        back = time.monotonic()
        assert studio.resize.enqueue(1).result(timeout=30) == 2
        assert time.monotonic() - back < 10
        until_left((0, 0, 0, 0), opened(), "all is done")
        assert worker.poll() is None
    assert sorted(studio.notes()) == ["hold 0 1", "resize 1 1"]
