"""The audit: the files themselves, and the record of runs, not what the queue says of itself.

Owns: what is lost, wrong and delivered more than once.
Must never: ask the broker for anything but its dead letters.
Called by: `story.py`.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from dibs.cli.demo.tasks import RECORD, render


class Runs(Struct, frozen=True):
    """The record of runs: how often each thumbnail was begun, by which workers, and unfinished."""

    begun: Counter[str]
    begun_by: Mapping[int, set[str]]
    unfinished_by: Mapping[int, set[str]]


class Audit(Struct, frozen=True):
    """What the files say. `repeated_by_kill` of the `repeated` were begun by the killed worker."""

    photos: int
    correct: int
    lost: int
    wrong: int
    strange: int
    runs: int
    repeated: int
    repeated_by_kill: int

    @property
    def passed(self) -> bool:
        """Whether every photo has one correct thumbnail, and there is nothing else."""
        return self.correct == self.photos and not self.strange


def read_runs(folder: Path) -> Runs:
    """Read the record as far as it is written."""
    begun: Counter[str] = Counter()
    begun_by: dict[int, set[str]] = {}
    unfinished_by: dict[int, set[str]] = {}
    record = folder / RECORD
    for line in record.read_text().splitlines() if record.exists() else ():
        what, worker, name = line.split(" ", 2)
        if what == "started":
            begun[name] += 1
            begun_by.setdefault(int(worker), set()).add(name)
            unfinished_by.setdefault(int(worker), set()).add(name)
        else:
            unfinished_by[int(worker)].discard(name)
    return Runs(begun, begun_by, unfinished_by)


def audit(
    photos: Mapping[Path, Path], folder: Path, killed: int, told: Callable[[int], None]
) -> Audit:
    """Compare every thumbnail with one made anew; `photos` says which belongs to which.

    `told` is called with how many are compared.
    """
    states: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets other threads run
        for number, state in enumerate(pool.map(_state, photos, photos.values()), 1):
            states[state] += 1
            told(number)
    expected = {thumbnail.name for thumbnail in photos.values()}
    thumbnails = next(iter(photos.values())).parent
    # What a killed run left unfinished is hidden, under a name that no other run uses.
    there = {name for name in os.listdir(thumbnails) if not name.startswith(".")}
    runs = read_runs(folder)
    repeated = {name for name, count in runs.begun.items() if count > 1}
    return Audit(
        photos=len(photos),
        correct=states["correct"],
        lost=states["lost"],
        wrong=states["wrong"],
        strange=len(there - expected),
        runs=runs.begun.total(),
        repeated=len(repeated),
        repeated_by_kill=len(repeated & runs.begun_by.get(killed, set())),
    )


def _state(photo: Path, thumbnail: Path) -> str:
    try:
        found = thumbnail.read_bytes()
    except FileNotFoundError:
        return "lost"
    try:
        return "correct" if found == render(str(photo)) else "wrong"
    except (OSError, ValueError):
        return "wrong"
