"""The audit: the files and the shop themselves, not what the queue or the workers say of them.

Owns: what is lost, wrong and charged twice, and whether the demo has shown what it is to show.
Must never: ask the broker for anything.
Called by: `story.py`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from dibs.cli.demo import shop
from dibs.cli.demo.record import Record
from dibs.cli.demo.tasks import render
from dibs.cli.demo.work import Faults


class Photos(Struct, frozen=True):
    """What the thumbnails are: of `total` photos, and `strange` files beside them."""

    total: int
    correct: int
    lost: int
    wrong: int
    strange: int


class Cards(Struct, frozen=True):
    """What the shop says: of `total` cards, by the naive task and by the one with `once`.

    `strange` is what was charged or recorded as done that no job is for.
    """

    total: int
    naive_lost: int
    naive_twice: int
    lost: int
    twice: int
    strange: int


class Repeated(Struct, frozen=True):
    """The jobs that were delivered more than once, by the fault that met each."""

    total: int
    lost_acks: int
    killed: int
    stopped: int

    @property
    def others(self) -> int:
        """Those of no fault of the demo's."""
        return self.total - self.lost_acks - self.killed - self.stopped


class Audit(Struct, frozen=True):
    """What was found; `acks_lost` and `acks_refused` are of the workers' own record."""

    photos: Photos
    cards: Cards
    repeated: Repeated
    acks_lost: int
    acks_refused: int

    @property
    def done(self) -> int:
        """The jobs whose effect is there."""
        cards = self.cards
        return self.photos.correct + 2 * cards.total - cards.naive_lost - cards.lost

    @property
    def lost(self) -> int:
        """The jobs that left nothing."""
        return self.photos.lost + self.cards.naive_lost + self.cards.lost

    @property
    def wrong(self) -> int:
        """What is there and should be otherwise, or not at all."""
        return self.photos.wrong + self.photos.strange + self.cards.strange

    def failures(self) -> Iterator[str]:
        """Yield what is not as it should be; a demo that shows nothing has failed too."""
        if self.lost:
            yield f"{self.lost:,} jobs are lost"
        if self.wrong:
            yield f"{self.wrong:,} thumbnails or charges are wrong"
        if self.cards.twice:
            yield f"{self.cards.twice:,} cards were charged twice through `once`"
        for shown, what in (
            (self.acks_lost, "no ack was lost"),
            (self.acks_refused, "no stale ack was refused"),
            (self.cards.naive_twice, "no card was charged twice by the naive task"),
        ):
            if not shown:
                yield f"{what}, so this run has shown nothing of it"


def audit_photos(photos: Mapping[Path, Path], told: Callable[[int], None]) -> Photos:
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
    strange = len(there - expected)
    return Photos(len(photos), states["correct"], states["lost"], states["wrong"], strange)


def audit_cards(path: str, cards: range) -> Cards:
    """Count in the shop how often each card was charged, and hold its ledger to that."""
    naive, once = shop.charged(path, "naive_charges"), shop.charged(path, "charges")
    strange = len((naive.keys() | once.keys()) - set(cards)) + abs(shop.kept(path) - len(once))
    return Cards(
        total=len(cards),
        naive_lost=sum(not naive[card] for card in cards),
        naive_twice=sum(naive[card] > 1 for card in cards),
        lost=sum(not once[card] for card in cards),
        twice=sum(once[card] > 1 for card in cards),
        strange=strange,
    )


def explain(record: Record, faults: Faults) -> Repeated:
    """Say for each job that was delivered more than once by which fault; the surest one counts."""
    repeated = record.repeated()
    lost = repeated & record.acks_lost.keys()
    killed = (repeated - lost) & record.begun_by[faults.killed].keys()
    stopped = (repeated - lost - killed) & record.begun_by[faults.stopped].keys()
    return Repeated(len(repeated), len(lost), len(killed), len(stopped))


def _state(photo: Path, thumbnail: Path) -> str:
    try:
        found = thumbnail.read_bytes()
    except FileNotFoundError:
        return "lost"
    try:
        return "correct" if found == render(str(photo)) else "wrong"
    except (OSError, ValueError):
        return "wrong"
