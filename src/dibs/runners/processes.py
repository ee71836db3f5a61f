"""Runner processes, from the pump's side: started, watched, killed.

Owns: the child process, its links and its black box.
Must never: import user code, or wait for a child that still lives.
Called by: the worker's crew, through `spawner`.
"""

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Sequence

from dibs.runners.blackbox import BlackBox
from dibs.runners.contract import THE_PUMPS, Down, Spawner, Up
from dibs.runners.link import Links

_DESCRIPTORS = (3, 4, 5)
"""Where a child finds its link, the loop's link and the box."""
_ABOVE = 10


def spawner(app_path: str, url: str | None = None) -> Spawner:
    """Return what starts runner processes that import `app_path` ("module:app").

    `url`: the broker that they enqueue to, where it is not the app's own.
    """
    return lambda slots: ProcessRunner(app_path, slots, url)


class ProcessRunner:
    """One runner process."""

    def __init__(self, app_path: str, slots: int, url: str | None = None) -> None:
        self.slots = slots
        self._links = Links()
        with contextlib.ExitStack() as given, contextlib.ExitStack() as unless_started:
            unless_started.callback(self._links.close)
            for end in self._links.theirs:
                given.callback(end.close)
            memory = BlackBox.allocate(slots)
            given.callback(os.close, memory)
            self._box = BlackBox(memory, slots)
            ends = [*(end.fileno() for end in self._links.theirs), memory]
            self.pid = _start([app_path, str(slots), url or ""], ends)
            unless_started.pop_all()
        self._death_watch = _death_watch(self.pid)
        self._status: str | None = None

    def filenos(self) -> Sequence[int]:
        """Return the link and, where there is one, the death watch."""
        if self._death_watch is None:
            return [self._links.fileno()]
        return [self._links.fileno(), self._death_watch]

    def unsent(self) -> Sequence[int]:
        """Return where frames wait for room."""
        return self._links.unsent()

    def send(self, frame: Down) -> None:
        """Hand over a frame."""
        self._links.send(frame)

    def flush(self) -> None:
        """Write what waits."""
        self._links.flush()

    def receive(self) -> list[Up]:
        """Return the frames that have arrived."""
        return self._links.receive()

    def death(self) -> str | None:
        """Say how the process died, or None."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD was ignored when this process was started
                self._status = "status unknown"
            else:
                self._status = _describe(status) if pid else None
        return self._status

    def running(self) -> dict[int, float]:
        """Return what the slots are at."""
        return self._box.running()

    def last(self) -> set[int]:
        """Return what the slots were at last."""
        return self._box.last()

    def kill(self) -> None:
        """SIGKILL, unless it was seen dead: then its number may be another process's."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give up the descriptors; a process that still lives reads the end and exits."""
        self._links.close()
        if self._death_watch is not None:
            os.close(self._death_watch)
            self._death_watch = None


def _start(job: list[str], given: Sequence[int]) -> int:
    """Spawn the child with the links and the box at fixed descriptors, everything else closed.

    All are first moved above the fixed numbers, so that placing one cannot overwrite another.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in given]
    arguments = [*map(str, _DESCRIPTORS), *job]
    command = [sys.executable, *_flags(), "-m", "dibs.runners.child", *arguments]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, _DESCRIPTORS, strict=True)),
    ]
    try:
        return os.posix_spawn(
            sys.executable, command, os.environ, file_actions=actions, setsigmask=THE_PUMPS
        )
    finally:
        for descriptor in high:
            os.close(descriptor)


def _death_watch(pid: int) -> int | None:
    """Return what is readable when the process dies, or None.

    Without one (macOS, an old kernel, a sandbox, no descriptor left) the link's end must do. A
    grandchild that inherited the link would hide it, so it is the second choice.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _flags() -> list[str]:
    """Return the interpreter's options that a user would expect to hold in runners too."""
    warnings = [f"-W{option}" for option in sys.warnoptions]
    return [*warnings, *(["-X", "dev"] if sys.flags.dev_mode else [])]


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
