"""Whole real workers on a real queue file: started, watched, signalled and ended by tests.

Owns: the processes that a test starts, each in a session of its own, and that none of them is left.
Must never: end a process that it did not start, or wait without a limit. What is waited for is a
line, a note, the end of a process or the broker's state: never just time.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dibs.brokers.contract import Stored
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock
from dibs.message import DeadMessage, Message

T = TypeVar("T")
SECONDS = 30.0
"""How long anything is waited for: a limit for what is broken, not a measure."""

LAUNCH = str(Path(__file__).parents[1] / "launch.py")

HOLDER = """
import os, signal
from pathlib import Path
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock
broker = open_sqlite(Path("zoo.db"), clock=SystemClock(), worker_id=b"holder")
broker._db.write(lambda: os.kill(os.getpid(), signal.SIGSTOP))
"""


class Note(msgspec.Struct, frozen=True):
    """A line that a task wrote: what happened in which run, where, and when (monotonic)."""

    what: str
    n: int
    fence: int
    attempt: int
    pid: int
    pump: int
    slots: int
    at: float


def until(found: Callable[[], T], what: str, seconds: float | None = None) -> T:
    """Ask again and again until the answer is true; what is asked rings no bell."""
    limit = SECONDS if seconds is None else seconds
    deadline = time.monotonic() + limit
    while not (value := found()):
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        select.select([], [], [], 0.01)
    return value


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal by now."""
    return bool(_signals(pid, "SigCgt") >> (number - 1) & 1)


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal is on its way to a process."""
    return bool((_signals(pid, "ShdPnd") | _signals(pid, "SigPnd")) >> (number - 1) & 1)


def _signals(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[field], 16)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split() if alive(int(child))]


def age_seconds(pid: int) -> float:
    """Return how long ago a process was born."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    born = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - born


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Started:
    """A process in a session of its own, its output in a file."""

    def __init__(
        self, folder: Path, command: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if k != "DIBS_URL"}
        output, name = tempfile.mkstemp(".log", "started-", folder)
        self._output = Path(name)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, "PYTHONWARNINGS": "error", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(output)
        self.pid = self.process.pid

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return self._output.read_text(errors="backslashreplace")

    def saw(self, pattern: str) -> str | None:
        """Return the first line so far that matches."""
        return next((line for line in self.text.splitlines() if re.search(pattern, line)), None)

    def count(self, pattern: str) -> int:
        """Return how often something was printed so far."""
        return len(re.findall(pattern, self.text))

    def line(self, pattern: str, seconds: float = SECONDS) -> str:
        """Wait for a line."""
        deadline = time.monotonic() + seconds
        while not (line := self.saw(pattern)):
            ended = self.process.poll() is not None and not self.saw(pattern)
            assert not ended, f"ended without {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"no line {pattern!r}:\n{self.text}"
            select.select([], [], [], 0.01)
        return line

    def send(self, number: int) -> None:
        """Signal this process alone."""
        self.process.send_signal(number)

    def send_all(self, number: int) -> None:
        """Signal the whole group, as a terminal does."""
        os.killpg(self.pid, number)

    def kill(self) -> float:
        """SIGKILL the whole group; return when."""
        at = time.monotonic()
        self.send_all(signal.SIGKILL)
        self.process.wait(SECONDS)
        return at

    def end(self, seconds: float = SECONDS) -> int:
        """Wait for the end; return the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds:g} s:\n{self.text}") from None

    def stop(self, seconds: float = SECONDS) -> int:
        """SIGTERM; return the exit code."""
        self.send(signal.SIGTERM)
        return self.end(seconds)

    def clear_away(self) -> None:
        """Kill whatever is left of the group, also what a task forked off."""
        with_leader = self.process.poll() is None
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            assert not with_leader
        self.process.wait(SECONDS)


class Scene:
    """A folder with the zoo's app and its queue file, and the workers of one test.

    `fault` and `record` are what `tests/launch.py` is told, where there is something to tell.
    """

    def __init__(self, folder: Path) -> None:
        shutil.copy(Path(__file__).with_name("zoo.py"), folder)
        self.folder = folder
        self.fault = self.record = "-"
        self.started: list[Started] = []
        self.broker = open_sqlite(folder / "zoo.db", clock=SystemClock(), worker_id=b"test")
        self.broker.declare(["default"])

    def worker(self, *arguments: str, app: str = "zoo:app", ready: bool = True) -> Started:
        """Start a worker; `ready`: and wait for the end of its banner."""
        plain = self.fault == self.record == "-"
        dibs = ["-m", "dibs"] if plain else [LAUNCH, self.fault, self.record]
        worker = self.start([sys.executable, *dibs, "worker", app, *arguments])
        if ready:
            worker.line(r"^  slots ")
        return worker

    def start(self, command: list[str]) -> Started:
        """Start any process."""
        self.started.append(Started(self.folder, command))
        return self.started[-1]

    def drain(self, *arguments: str) -> Started:
        """Run a worker with `--drain` to its end."""
        worker = self.worker("--drain", *arguments, ready=False)
        code = worker.end()
        assert code == 0, worker.text
        return worker

    @contextmanager
    def stopped_inside_a_commit(self) -> Iterator[Started]:
        """A process that holds the write lock and is stopped meanwhile; it goes on after."""
        holder = self.start([sys.executable, "-c", HOLDER])
        stat = Path(f"/proc/{holder.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "stopped")
        yield holder
        holder.send(signal.SIGCONT)
        assert holder.end() == 0

    # The queue

    def publish(self, *messages: Message) -> None:
        """Store messages."""
        assert self.broker.publish(messages) == [Stored()] * len(messages)

    def enqueue(self, task: str, *calls: Mapping[str, object], **fields: Any) -> None:
        """Publish calls of a task, with a visibility timeout of 1 s, the shortest there is."""
        fields = {"visibility_timeout_ms": 1_000, **fields}
        self.publish(
            *(
                Message(os.urandom(16), "default", task, msgspec.json.encode(call), **fields)
                for call in calls or [{}]
            )
        )

    def numbers(self, task: str, *numbers: int, **fields: Any) -> None:
        """Publish calls of a task whose one argument is a number."""
        self.enqueue(task, *({"n": n} for n in numbers), **fields)

    def counts(self) -> tuple[int, int, int, int]:
        """Return ready, scheduled, in flight, dead."""
        (found,) = self.broker.inspector().queues()
        counts = found.ready, found.scheduled, found.in_flight, found.dead
        return tuple(count or 0 for count in counts)  # type: ignore[return-value]

    def dead(self) -> list[DeadMessage]:
        """Return the dead letters."""
        return self.broker.inspector().dead()

    def until_counts(
        self, ready: int = 0, scheduled: int = 0, in_flight: int = 0, dead: int = 0
    ) -> None:
        """Wait until this is what lies in the queue."""
        wanted = (ready, scheduled, in_flight, dead)
        try:
            until(lambda: self.counts() == wanted, f"{wanted}")
        except AssertionError as exc:
            texts = "\n".join(one.text for one in self.started)
            raise AssertionError(f"{exc}; it is {self.counts()}\n{texts}") from None

    # The notes

    def notes(self, what: str | None = None) -> list[Note]:
        """Return what the tasks have noted so far, in order.

        A line over two pages of the file is seen to grow: only what ends a line is whole.
        """
        path = self.folder / "notes.txt"
        text = path.read_text().rpartition("\n")[0] if path.exists() else ""
        lines = (line.split() for line in text.splitlines())
        fields = [dict(part.split("=") for part in line if "=" in part) for line in lines]
        found = [msgspec.convert(one, Note, strict=False) for one in fields if one]
        return [note for note in found if what in (None, note.what)]

    def until_notes(self, what: str, count: int) -> list[Note]:
        """Wait for so many notes of a kind."""
        try:
            return until(
                lambda: (found := self.notes(what))[: len(found) * (len(found) >= count)],
                f"{count} x {what}",
            )
        except AssertionError as exc:
            texts = "\n".join(one.text for one in self.started)
            raise AssertionError(f"{exc}; there are {self.notes()}\n{texts}") from None

    def runs(self, what: str) -> Counter[int]:
        """Return how often each number was noted."""
        return Counter(note.n for note in self.notes(what))

    def touch(self, name: str) -> None:
        """Make the file that jobs wait for."""
        (self.folder / name).touch()

    def close(self) -> None:
        """End everything."""
        for one in self.started:
            one.clear_away()
        self.broker.close()
