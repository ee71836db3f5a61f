"""Commands as a user gives them: real processes, in a folder with a real app.

Nothing here sleeps: a test waits for a line, or for the end of a process, with a limit.
"""

import os
import pty
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dibs.brokers.contract import Broker
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock

SECONDS = 30

SHOP = """
import threading, time
from pathlib import Path
from dibs import App, context

app = App()

@app.task
def add(a: int, b: int = 2) -> int:
    return a + b

@app.task(queue="mail", max_attempts=2)
async def send(to: str) -> None:
    raise ValueError(f"no such \\x1b[31mbox: {to}")

@app.task(queue="slow")
def hold(name: str) -> None:
    print("holding", name, flush=True)
    while not Path(f"{name}.go").exists():
        time.sleep(0.01)

@app.task(queue="doomed", max_attempts=1)
def doomed() -> None:
    raise KeyError("gone")
"""


class Started:
    """A command that runs; its lines are read as they come."""

    def __init__(
        self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dibs", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.seen: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line_with(self, text: str) -> str:
        """Wait for a line that holds `text`."""
        while True:
            line = self._lines.get(timeout=SECONDS)
            assert line is not None, f"ended without {text!r}:\n{''.join(self.seen)}"
            self.seen.append(line)
            if text in line:
                return line

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the command itself."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and all that it printed."""
        code = self.process.wait(SECONDS)
        while (line := self._lines.get(timeout=SECONDS)) is not None:
            self.seen.append(line)
        return code, "".join(self.seen)

    def clear_away(self) -> None:
        """Kill whatever is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app in shop.py."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """What a command inherits: warnings are errors, and no broker is set."""
    inherited = {k: v for k, v in os.environ.items() if k != "DIBS_URL"}
    return {**inherited, "PYTHONWARNINGS": "error"}


@pytest.fixture
def dibs(folder: Path, environment: dict[str, str]) -> Callable[..., Any]:
    """Run a command to its end."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dibs", *arguments],
            cwd=folder,
            env={**environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def shell(folder: Path, environment: dict[str, str]) -> Callable[..., Any]:
    """Run a command line by a shell, with its redirections."""

    def run(line: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f"exec {sys.executable} -m dibs {line}"],
            cwd=folder,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def answer(folder: Path, environment: dict[str, str]) -> Callable[..., Any]:
    """Run a command at a terminal where a line is typed."""

    def run(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "wb", buffering=0) as terminal, os.fdopen(theirs, "rb") as stdin:
            terminal.write(f"{line}\n".encode())
            return subprocess.run(
                [sys.executable, "-m", "dibs", *arguments],
                cwd=folder,
                env=environment,
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )

    return run


@pytest.fixture
def broker(folder: Path) -> Iterator[Broker]:
    """The broker that a command without an app or a URL means."""
    opened = open_sqlite(folder / "dibs.db", clock=SystemClock(), worker_id=os.urandom(8))
    yield opened
    opened.close()


@pytest.fixture
def start(folder: Path, environment: dict[str, str]) -> Iterator[Callable[..., Started]]:
    """Start a command; what is left of it is killed after the test."""
    all_started: list[Started] = []

    def begin(*arguments: str) -> Started:
        all_started.append(Started(arguments, folder, environment))
        return all_started[-1]

    yield begin
    for one in all_started:
        one.clear_away()
