"""The story of the demo, in the order in which it happens.

Owns: the folder of one demo, and what is made, published and audited in it.
Must never: leave a process or, unless told to, a file behind; change a user's photo.
Called by: `dibs demo`.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from dibs import __version__
from dibs.cli.demo import shop
from dibs.cli.demo.audit import Audit, audit_cards, audit_photos, explain
from dibs.cli.demo.photos import found_in
from dibs.cli.demo.processes import Processes
from dibs.cli.demo.record import Record
from dibs.cli.demo.report import report
from dibs.cli.demo.show import Show, opened
from dibs.cli.demo.tasks import app, charge_naively, charge_once, resize
from dibs.cli.demo.work import LOOK_SECONDS, Work
from dibs.delivery import BoundCall
from dibs.errors import UserError, WorkerError
from dibs.text import duration

SHORTEST_SECONDS = 4.0
SHORTEST_WAIT = 0.05
"""So few photos that they would be done before anybody could look: their jobs wait as well."""

FEWEST_CARDS, PHOTOS_A_CARD = 50, 10
CARD_SECONDS = 0.05
"""How long a card company takes: between the charge and the ack of its job, for faults to hit."""


def tell(count: int | None, slots: int, own: Path | None, *, keep: bool) -> int:
    """Run the demo; return its exit code."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="dibs-demo-")).resolve()
    os.environ["DIBS_URL"] = f"sqlite:///{folder}/queue.db"
    try:
        with opened() as show, Processes(folder) as processes:
            show.say(f"dibs {__version__} demo, in {folder}")
            demo = Demo(folder, slots, show, processes)
            verdict = demo.run(count, own)
        click.echo(report(verdict, demo.published, demo.rate))
        if keep:
            click.echo(f"kept: {folder}")
        click.echo(f"everything took {duration(time.monotonic() - began)}")
        return 1 if any(verdict.failures()) else 0
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


class Demo:
    """One run of the demo; `published` jobs, of which `rate` were done in a second."""

    def __init__(self, folder: Path, slots: int, show: Show, processes: Processes) -> None:
        self._folder = folder
        self._shop = str(folder / shop.NAME)
        self._slots = slots
        self._show = show
        self._processes = processes
        self.published = 0
        self.rate = 0.0

    def run(self, count: int | None, own: Path | None) -> Audit:
        """Make or find photos, publish, work under faults, audit."""
        photos = self._thumbnails_of(self._made(count or 0) if own is None else self._found(own))
        if own is not None and count is not None:
            photos = dict(list(photos.items())[:count])
        cards = range(max(FEWEST_CARDS, len(photos) // PHOTOS_A_CARD))
        shop.make(self._shop)
        self.published = self._publish(photos, cards)
        began = time.monotonic()
        faults = Work(self._folder, self._slots, self._show, self._processes).do(self.published)
        self.rate = self.published / (time.monotonic() - began)
        record = Record(self._folder).read()
        self._show.step("audited", len(photos))
        return Audit(
            audit_photos(photos, self._show.done),
            audit_cards(self._shop, cards),
            explain(record, faults),
            acks_lost=record.acks_lost.total(),
            acks_refused=record.acks_refused.total(),
        )

    def _made(self, count: int) -> list[Path]:
        """Make photos, with a process on every core."""
        began = time.monotonic()
        photos = self._folder / "photos"
        photos.mkdir()
        cores = os.cpu_count() or 1
        edges = [count * core // cores for core in range(cores + 1)]
        makers = [
            self._processes.start(
                ["dibs.cli.demo.photos", str(photos), str(edges[core]), str(edges[core + 1])]
            )
            for core in range(cores)
        ]
        self._show.step("made", count)
        for maker in makers:
            while maker.poll() is None:
                self._show.done(len(os.listdir(photos)))
                self._nap()
            if maker.returncode:
                raise WorkerError(f"making photos failed:\n{self._processes.printed(maker)}")
        self._show.done(count)
        self._show.say(f"made {count:,} photos in {duration(time.monotonic() - began)}")
        return sorted(photos.iterdir())

    def _found(self, own: Path) -> list[Path]:
        found = list(found_in(own))
        if not found:
            raise UserError(f"there are no photos in {own} that Pillow can open")
        self._show.say(f"found {len(found):,} photos in {own}; they are only read")
        return found

    def _thumbnails_of(self, photos: list[Path]) -> dict[Path, Path]:
        thumbnails = self._folder / "thumbnails"
        thumbnails.mkdir()
        return {photo: thumbnails / f"{number:06}.jpg" for number, photo in enumerate(photos)}

    def _publish(self, photos: Mapping[Path, Path], cards: range) -> int:
        began = time.monotonic()
        wait = SHORTEST_SECONDS * self._slots / (len(photos) + 2 * len(cards))
        wait = round(wait, 3) if wait > SHORTEST_WAIT else 0
        with contextlib.closing(app):
            count = app.enqueue_many(self._calls(photos, cards, wait))
        took = time.monotonic() - began
        if wait:
            self._show.say(
                f"each job waits {wait:g} s, so that few of them have a middle to die in"
            )
        self._show.say(
            f"published {count:,} jobs in {duration(took)}, on disk when it returned:"
            f" {len(photos):,} photos to resize, and {len(cards):,} cards to charge, naively and"
            " through `once`"
        )
        return count

    def _calls(self, photos: Mapping[Path, Path], cards: range, wait: float) -> Iterator[BoundCall]:
        """Yield the jobs, the cards spread evenly among the photos."""
        charged = 0
        for number, (photo, thumbnail) in enumerate(photos.items(), 1):
            yield resize.bind(str(photo), str(thumbnail), wait)
            while charged < number * len(cards) // len(photos):
                for charge in (charge_naively, charge_once):
                    yield charge.bind(self._shop, cards[charged], max(wait, CARD_SECONDS))
                charged += 1

    def _nap(self) -> None:
        time.sleep(LOOK_SECONDS)
