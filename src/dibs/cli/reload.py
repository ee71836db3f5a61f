"""Noticing that the app's files changed, and starting the same command anew.

Must never: run where nobody asked for `--reload`: it looks twice a second.
Called by: `worker.py`.
"""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from dibs.cli.lines import Lines

LAG_NS = 20_000_000
"""A file's time may be so much older than the moment of its writing: kernels count in ticks."""

Stamp = tuple[int, int]


class Files:
    """Files to watch; calling it says whether one changed since `since_ns`. `changed` names it.

    The moment is that before they were imported: what is saved meanwhile is a change as well.
    """

    def __init__(self, paths: Iterable[str], since_ns: int) -> None:
        now = time.time_ns()
        self._seen: dict[str, Stamp | None] = {}
        for path in paths:
            stamp = _stamp(path)
            if stamp is not None and since_ns - LAG_NS <= stamp[0] <= now:
                stamp = None  # saved meanwhile: other than it was, whatever that was
            self._seen[path] = stamp
        self.changed: str | None = None

    def __call__(self) -> bool:
        """Whether one of the files changed, was deleted or came back."""
        for path, stamp in self._seen.items():
            if _stamp(path) != stamp:
                self.changed = path
                return True
        return False

    def start_anew(self) -> NoReturn:
        """Replace this process by the same command, with the same process id."""
        Lines(sys.stderr.fileno())(f"{self.changed} changed: starting anew\n")
        os.execv(sys.executable, [sys.executable, *_flags(), "-m", "dibs", *sys.argv[1:]])


def files_near(app: str, since_ns: int) -> Files:
    """Return the files that an app which cannot be imported is most likely made of."""
    top = Path(app.partition(":")[0].split(".")[0])
    near = [top.with_suffix(".py"), *Path().glob("*.py"), *top.glob("**/*.py")]
    return Files({str(path.absolute()) for path in near}, since_ns)


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _flags() -> list[str]:
    warnings = [f"-W{option}" for option in sys.warnoptions]
    return [*warnings, *(["-X", "dev"] if sys.flags.dev_mode else [])]
