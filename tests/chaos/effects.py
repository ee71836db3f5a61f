"""What the jobs of the chaos tests do to the world, and how often that may happen for a job.

Owns: the kinds of effect, by name; a job does the one that the environment names.
Must never: make an effect rarer or more frequent than its kind does.
Called by: `load.py` in the runners, and the chaos tests, which count.
"""

import os
from collections import Counter
from pathlib import Path


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


EFFECTS = {"appended": Appended}
