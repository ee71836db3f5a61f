"""The processes that the demo starts: those that make photos, and the workers.

Owns: starting, stopping and killing them, each by its own id.
Must never: touch a process that it did not start, or leave one behind.
Called by: `story.py` and `work.py`.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

STOP_SECONDS = 15.0


class Processes:
    """Every process in a session of its own, so that one goes with all that it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)  # an impatient second one would leave some behind
        for process in self._all:
            self.kill(process)

    def start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start `python -m ARGUMENTS`; what it prints goes to a file of its number."""
        with (self._folder / f"process-{len(self._all) + 1}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._all.append(process)
        return process

    def printed(self, process: subprocess.Popen[bytes]) -> str:
        """Return what a process has printed."""
        log = self._folder / f"process-{self._all.index(process) + 1}.log"
        return log.read_text(errors="replace")

    def pause(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a process and all that it started where they are."""
        os.killpg(process.pid, signal.SIGSTOP)

    def pause_alone(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a process, and wait until it stands; what it started goes on."""
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)

    def go_on(self, process: subprocess.Popen[bytes]) -> None:
        """Let a paused process go on."""
        os.killpg(process.pid, signal.SIGCONT)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and all that it started, unless it has ended."""
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop(self, process: subprocess.Popen[bytes]) -> int | None:
        """Ask a process to stop in order; return its exit code, or None if it does not."""
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(STOP_SECONDS)
        return None
