"""Runner processes, from the pump's side: started, watched, killed.

Owns: the child process, its link and its black box.
Must never: import user code, or wait for a child that still lives.
Called by: the worker's crew, through `spawner`.
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Sequence

from dibs.runners.blackbox import BlackBox
from dibs.runners.contract import THE_PUMPS, Down, Spawner, Up
from dibs.runners.link import Link

_LINK_DESCRIPTOR = 3
_BOX_DESCRIPTOR = 4
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
        ours, theirs = socket.socketpair()
        memory = BlackBox.allocate(slots)
        self._box = BlackBox(memory, slots)
        self._link = Link(ours)
        self.pid = _start([app_path, str(slots), url or ""], theirs.fileno(), memory)
        theirs.close()
        os.close(memory)
        # Readable when the process dies. Where there is none (macOS) the link's end must do; a
        # grandchild that inherited the link would hide it, so it is the second choice.
        self._death_watch = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        self._status: str | None = None

    def filenos(self) -> Sequence[int]:
        """Return the link and, where there is one, the death watch."""
        if self._death_watch is None:
            return [self._link.fileno()]
        return [self._link.fileno(), self._death_watch]

    def wants_write(self) -> bool:
        """Whether frames wait for room."""
        return self._link.wants_write()

    def send(self, frame: Down) -> None:
        """Hand over a frame."""
        self._link.send(frame)

    def flush(self) -> None:
        """Write what waits."""
        self._link.flush()

    def receive(self) -> list[Up]:
        """Return the frames that have arrived."""
        return self._link.receive()

    def death(self) -> str | None:
        """Say how the process died, or None."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = _describe(status)
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
        self._link.close()
        if self._death_watch is not None:
            os.close(self._death_watch)
            self._death_watch = None


def _start(job: list[str], link: int, memory: int) -> int:
    """Spawn the child with the link and the box at fixed descriptors, everything else closed.

    Both are first moved above the fixed numbers, so that placing one cannot overwrite the other.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in (link, memory)]
    arguments = [str(_LINK_DESCRIPTOR), str(_BOX_DESCRIPTOR), *job]
    command = [sys.executable, *_flags(), "-m", "dibs.runners.child", *arguments]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, high[0], _LINK_DESCRIPTOR),
        (os.POSIX_SPAWN_DUP2, high[1], _BOX_DESCRIPTOR),
    ]
    try:
        return os.posix_spawn(
            sys.executable, command, os.environ, file_actions=actions, setsigmask=THE_PUMPS
        )
    finally:
        for descriptor in high:
            os.close(descriptor)


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
