"""The record: what the demo's workers did, one line for each thing, written by them as it happens.

Owns: the lines, and what they come to.
Must never: be taken for what the jobs left behind: that is in the files and in the shop.
Called by: `tasks.py` and `worker.py`, which write; `work.py` and `story.py`, which read.
"""

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal, Self

NAME = "record.txt"

What = Literal["started", "finished", "lost", "refused"]
"""A run was begun; it came to its end; its ack was lost on the way; its ack was refused."""


def note(folder: Path, what: What, worker: int, task: str, job: str) -> None:
    """Append one line in one write, which no other process can cut in two."""
    line = f"{what} {worker} {task} {job}\n".encode()
    file = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


class Record:
    """The record as far as it was read: jobs by id, workers by process id."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._offset = 0
        self.begun: Counter[str] = Counter()
        self.begun_by: dict[int, Counter[str]] = defaultdict(Counter)
        self.unfinished_by: dict[int, dict[str, str]] = defaultdict(dict)
        """The jobs that each worker runs, and the task of each."""
        self.acks_lost: Counter[str] = Counter()
        self.acks_refused: Counter[str] = Counter()

    def read(self) -> Self:
        """Read what was written since."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._offset += len(whole) + 1
                for line in whole.decode().split("\n"):
                    self._take(*line.split(" "))
        return self

    def begun_elsewhere(self, worker: int, job: str) -> int:
        """Return how often other workers have begun a job."""
        return self.begun[job] - self.begun_by[worker][job]

    def repeated(self) -> set[str]:
        """Return the jobs that were begun more than once."""
        return {job for job, count in self.begun.items() if count > 1}

    def _take(self, what: str, worker: str, task: str, job: str) -> None:
        match what:
            case "started":
                self.begun[job] += 1
                self.begun_by[int(worker)][job] += 1
                self.unfinished_by[int(worker)][job] = task
            case "finished":
                self.unfinished_by[int(worker)].pop(job, None)
            case "lost":
                self.acks_lost[job] += 1
            case _:
                self.acks_refused[job] += 1
