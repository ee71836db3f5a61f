"""How the demo is shown: lines, and a live bar where there is a terminal and rich to draw one.

Must never: print an escape sequence where no terminal is.
Called by: `story.py`.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 2.0
"""How often a step says how far it is, where there is no live bar."""


class Show(Protocol):
    """Tells the story."""

    def say(self, text: str) -> None:
        """Print a line."""
        ...

    def step(self, name: str, total: int) -> None:
        """Begin a step of `total` parts."""
        ...

    def done(self, parts: int) -> None:
        """Say how many parts are done."""
        ...


class Lines:
    """Plain lines, not too many."""

    def __init__(self) -> None:
        self._name, self._total, self._told = "", 0, 0.0

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text)
        sys.stdout.flush()

    def step(self, name: str, total: int) -> None:
        """Begin a step."""
        self._name, self._total, self._told = name, total, time.monotonic()

    def done(self, parts: int) -> None:
        """Print how far it is, once in a while."""
        now = time.monotonic()
        if now >= self._told + LINE_SECONDS:
            self._told = now
            self.say(f"  {self._name}: {parts:,} of {self._total:,}")


@contextlib.contextmanager
def opened() -> Iterator[Show]:
    """Give a live display if there can be one, else lines."""
    if not sys.stdout.isatty() or find_spec("rich") is None:
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    columns = (TextColumn("  {task.description:>10}"), BarColumn(), MofNCompleteColumn(), Elapsed())
    with Progress(*columns) as progress:
        yield Live(progress)


class Live:
    """A bar for each step, the lines above them. `progress` is rich's."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._step: TaskID | None = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, name: str, total: int) -> None:
        """Begin another bar."""
        self._step = self._progress.add_task(name, total=total)

    def done(self, parts: int) -> None:
        """Move the bar."""
        if self._step is not None:
            self._progress.update(self._step, completed=parts)
