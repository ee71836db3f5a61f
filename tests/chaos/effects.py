"""What the jobs of the chaos tests do to the world, and how often that may happen for a job.

Owns: the kinds of effect, by name; a job does the one that the environment names.
Must never: make an effect rarer or more frequent than its kind does.
Called by: `load.py` in the runners, and the chaos tests, which count.
"""

import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Protocol

from dibs import once


class Effect(Protocol):
    """A kind of effect, in a folder; `most` is how often it may happen for one job, None for any.

    Where there is a most, a job that is done has had its effect exactly so often.
    """

    most: int | None

    def apply(self, job: int) -> None:
        """Have the effect of a job."""
        ...

    def counts(self) -> Counter[int]:
        """Return how often each job had its effect."""
        ...

    def spared(self) -> int:
        """Return how often an effect was not repeated."""
        ...


class Appended:
    """A line in a file: as naive as effects are, at least one for each job that is done."""

    most: int | None = None

    def __init__(self, folder: Path) -> None:
        self._path = folder / "effects.txt"

    def apply(self, job: int) -> None:
        """Have the effect of a job."""
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(file, b"%d\n" % job)
        os.close(file)

    def counts(self) -> Counter[int]:
        """Return how often each job had its effect."""
        return Counter(map(int, self._path.read_text().split()))

    def spared(self) -> int:
        """Return 0: nothing holds this effect back."""
        return 0


class Charged:
    """A row in a shop's database, through `once`: one for each job that is done."""

    most: int | None = 1

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shop.db"
        with closing(self._opened()) as shop:
            for table in ("charges", "spared"):
                shop.execute(f"CREATE TABLE IF NOT EXISTS {table} (job INTEGER NOT NULL)")

    def apply(self, job: int) -> None:
        """Have the effect of a job, or note that it was had."""
        with closing(self._opened()) as shop, once(shop) as first:
            shop.execute(f"INSERT INTO {'charges' if first else 'spared'} VALUES (?)", (job,))

    def counts(self) -> Counter[int]:
        """Return how often each job had its effect."""
        return Counter(self._jobs("charges"))

    def spared(self) -> int:
        """Return how often an effect was asked for that was had already."""
        return len(self._jobs("spared"))

    def _jobs(self, table: str) -> list[int]:
        with closing(self._opened()) as shop:
            return [job for (job,) in shop.execute(f"SELECT job FROM {table}")]

    def _opened(self) -> sqlite3.Connection:
        shop = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        # Only processes die here, and the speed of the disk is for the queue.
        shop.execute("PRAGMA synchronous=OFF")
        return shop


EFFECTS: dict[str, type[Appended] | type[Charged]] = {"appended": Appended, "charged": Charged}
