"""The card is charged once: real workers, real faults, effects counted in their own database."""

import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dibs import App, once
from dibs.brokers.url import open_broker
from dibs.worker import embedded
from tests.servers.postgres import Server
from tests.worker.losing import LosesAcks, left
from tests.worker.workers import Scene, until


class Till(Scene):
    """A scene with the till's app, and the database of its effects."""

    def __init__(self, folder: Path, shop: str) -> None:
        super().__init__(folder)
        shutil.copy(Path(__file__).with_name("till.py"), folder)
        (folder / "shop.txt").write_text(shop)
        self.shop = shop
        self._run("CREATE TABLE naive (n INTEGER)")
        self._run("CREATE TABLE charges (n INTEGER)")

    def cards(self, table: str) -> Counter[int]:
        """Return how often each card was charged."""
        return Counter(n for (n,) in self._run(f"SELECT n FROM {table}"))

    def _run(self, sql: str) -> list[Any]:
        connect: Any = psycopg.connect if "://" in self.shop else sqlite3.connect
        with closing(connect(self.shop)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            found = cursor.fetchall() if cursor.description else []
            connection.commit()
            return found


@pytest.fixture(params=["sqlite", "postgresql"])
def till(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Till]:
    """The till, with its effects in either database."""
    shop = str(tmp_path / "shop.db")
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        shop = server.url(server.new_database())
    made = Till(tmp_path, shop)
    try:
        yield made
    finally:
        made.close()


def test_a_worker_that_was_stopped_before_its_effect_does_not_do_it_again(till: Till) -> None:
    till.enqueue("charges_after", {"n": 1, "file": "go"})
    stopped = till.worker("-c", "1", app="till:app")
    till.until_notes("start", 1)
    stopped.send_all(signal.SIGSTOP)
    heir = till.worker("-c", "1", app="till:app")
    till.until_notes("start", 2)
    till.touch("go")
    till.until_counts()
    assert till.cards("charges") == Counter([1])
    stopped.send_all(signal.SIGCONT)
    [refused] = till.until_notes("refused", 1)
    assert refused.fence == 1
    assert (stopped.stop(), heir.stop()) == (0, 0)
    assert till.cards("charges") == Counter([1])
    assert till.cards("naive") == Counter([1, 1])


def test_a_worker_that_was_stopped_inside_its_effect_does_it_alone(till: Till) -> None:
    till.enqueue("charges_around", {"n": 1, "file": "on"})
    stopped = till.worker("-c", "1", app="till:app")
    till.until_notes("inside", 1)
    stopped.send_all(signal.SIGSTOP)
    heir = till.worker("-c", "1", app="till:app")
    # It waits for the stopped one's transaction, or fails to get the lock and tries again.
    till.until_notes("start", 2)
    till.touch("on")
    stopped.send_all(signal.SIGCONT)
    [done, *_] = till.until_notes("done", 1)
    assert done.fence > 1
    till.until_counts()
    assert (stopped.stop(), heir.stop()) == (0, 0)
    assert till.cards("charges") == Counter([1])


def test_a_death_between_effect_and_acknowledgement_charges_nobody_twice(till: Till) -> None:
    cards = range(4)
    for n in cards:
        till.enqueue("charges_and_dies", {"n": n})
        worker = till.worker("-c", "1", "--processes", "1", app="till:app", ready=False)
        assert worker.end() == -signal.SIGKILL
        assert till.cards("charges")[n] == 1, "the effect is committed, and nothing acknowledged"
        till.worker("-c", "1", app="till:app")
        till.until_counts()
        assert till.started[-1].stop() == 0
    assert till.cards("charges") == Counter(cards)
    assert till.cards("naive") == Counter([*cards, *cards])
    assert till.runs("done") == Counter(cards)


def test_random_kills_charge_every_card_once(till: Till) -> None:
    chance = random.Random(20_161_118)
    cards = range(300)
    till.numbers("charges", *cards)
    workers = [till.worker("-c", "3", "--processes", "1", app="till:app") for _ in range(2)]
    for kill in range(1, 6):
        progress = 45 * kill + chance.randrange(10)
        until(lambda: till.cards("naive").total() >= progress, f"{progress} charges")  # noqa: B023
        workers.pop(chance.randrange(len(workers))).kill()
        workers.append(till.worker("-c", "3", "--processes", "1", app="till:app", ready=False))
    till.until_counts()
    for worker in workers:
        worker.line(r"^  slots ")
        assert worker.stop() == 0
    assert till.cards("charges") == Counter(cards)
    assert till.cards("naive").total() > len(cards), "or nothing was delivered twice"


def test_a_lost_acknowledgement_charges_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: set[bytes] = set()

    def opened(*args: Any, **kwargs: Any) -> LosesAcks:
        return LosesAcks(open_broker(*args, **kwargs), lost)

    monkeypatch.setattr(embedded, "open_broker", opened)
    shop, app = tmp_path / "shop.db", App(f"sqlite:///{tmp_path / 'queue.db'}")

    @app.task(visibility_timeout=1)
    def charges(n: int) -> None:
        with closing(sqlite3.connect(shop, isolation_level=None)) as connection:
            connection.execute("INSERT INTO naive VALUES (?)", (n,))
            with once(connection) as first:
                if first:
                    connection.execute("INSERT INTO charges VALUES (?)", (n,))

    def charged(table: str) -> Counter[int]:
        return Counter(n for (n,) in outside.execute(f"SELECT n FROM {table}"))

    cards = range(20)
    with closing(sqlite3.connect(shop)) as outside, closing(app):
        outside.executescript("CREATE TABLE naive (n INTEGER); CREATE TABLE charges (n INTEGER)")
        app.enqueue_many(charges.bind(n) for n in cards)
        until(lambda: app.worker(concurrency=3).drain() and not left(app), "nothing is left")
        assert len(lost) == len(cards)
        assert charged("charges") == Counter(cards)
        assert charged("naive") >= Counter([*cards, *cards]), "each was delivered again"
