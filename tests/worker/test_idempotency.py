"""Idempotency keys from end to end: real workers, and callers who are told how each job ended."""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dibs import App, once
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.idempotency import HEADER
from dibs.message import Settlement
from dibs.worker import embedded
from tests.worker.losing import LosesAcks, left
from tests.worker.workers import SECONDS, Scene, until


class Caller:
    """A program that knows the zoo's tasks that have keys."""

    def __init__(self, url: str) -> None:
        self.app = app = App(url)

        @app.task(idempotency_key="keyed-{n}", visibility_timeout=1)
        def keyed(n: int) -> str: ...  # type: ignore[empty-body]

        @app.task(idempotency_key="keyed-{n}", visibility_timeout=1)
        def keyed_def(n: int) -> None: ...

        self.keyed, self.keyed_def = keyed, keyed_def


@pytest.fixture
def caller(scene: Scene) -> Iterator[Caller]:
    caller = Caller(f"sqlite:///{scene.folder}/zoo.db")
    yield caller
    caller.app.close()


def test_a_second_job_is_not_run_and_has_the_result_of_the_first(
    scene: Scene, caller: Caller
) -> None:
    worker = scene.worker()
    first = caller.keyed.enqueue(17)
    assert first.result(SECONDS) == f"by {first.id}"
    second = caller.keyed.enqueue(17)
    assert (second.duplicate, second.id == first.id) == (False, False)
    assert second.result(SECONDS) == f"by {first.id}"
    other = caller.keyed.enqueue(18)
    assert other.result(SECONDS) == f"by {other.id}"
    for _ in range(2):
        caller.keyed_def.enqueue(17).wait(SECONDS)
    assert scene.runs("keyed") == Counter([17, 18])
    assert scene.runs("keyed_def") == Counter([17])
    worker.line("1 job not run: done before, by idempotency key")


def test_what_many_ask_for_at_once_is_done_once(scene: Scene, caller: Caller) -> None:
    for _ in range(2):
        scene.worker("-c", "4")
    asked = [n for n in range(60) for _ in range(4)]
    random.Random(17).shuffle(asked)
    with ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(caller.keyed.enqueue, asked))
    told = {(n, job.result(SECONDS)) for n, job in zip(asked, jobs, strict=True)}
    assert len(told) == 60, "all who asked for one thing are told the same"
    scene.until_counts()
    assert scene.runs("keyed") == Counter(range(60))


def test_the_record_outlives_the_worker_and_the_result(scene: Scene, caller: Caller) -> None:
    first = caller.keyed.enqueue(17)
    scene.drain()
    again = caller.keyed.enqueue(17)
    scene.drain()
    assert again.result(SECONDS) == f"by {first.id}"
    assert scene.runs("keyed") == Counter([17])


def test_a_crash_after_the_effect_is_the_window_that_is_left(scene: Scene, caller: Caller) -> None:
    scene.worker()
    caller.keyed_def.enqueue(-1).wait(SECONDS)
    assert scene.runs("keyed_def") == Counter([-1, -1]), "it was not recorded, so it ran again"
    caller.keyed_def.enqueue(-1).wait(SECONDS)
    assert scene.runs("keyed_def") == Counter([-1, -1]), "and now it is"


def test_a_redrive_of_what_another_job_has_done_runs_nothing(scene: Scene, caller: Caller) -> None:
    worker = scene.worker()
    caller.keyed.enqueue(17).wait(SECONDS)
    # As a producer of another language may have enqueued it: with the header, by hand.
    scene.enqueue("keyed", {"n": "wrong"}, headers={HEADER: "keyed-18"})
    scene.until_counts(dead=1)
    caller.keyed.enqueue(18).wait(SECONDS)
    scene.broker.inspector().redrive([scene.dead()[0].message.id])
    scene.until_counts()
    assert scene.runs("keyed") == Counter([17, 18])
    assert worker.stop() == 0


class Shop:
    """A task whose effects are in a database of their own, naive and through `once`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.db"
        self.app = app = App(f"sqlite:///{folder / 'queue.db'}")
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript("CREATE TABLE naive (n); CREATE TABLE once (n)")

        @app.task(visibility_timeout=1, idempotency_key="card {n}")
        def charges(n: int) -> str:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                connection.execute("INSERT INTO naive VALUES (?)", (n,))
                with once(connection, f"card {n}") as first:
                    if first:
                        connection.execute("INSERT INTO once VALUES (?)", (n,))
            return f"charged {n}"

        self.charges = charges

    def work(self) -> None:
        """Work until nothing is left."""
        until(
            lambda: self.app.worker(concurrency=3).drain() and not left(self.app), "nothing is left"
        )

    def charged(self, table: str) -> Counter[int]:
        """Return how often each card was charged."""
        with closing(sqlite3.connect(self.path)) as connection:
            return Counter(n for (n,) in connection.execute(f"SELECT n FROM {table}"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.app.close()


def test_a_lost_acknowledgement_loses_the_record_too_and_once_closes_that_window(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: set[bytes] = set()
    monkeypatch.setattr(
        embedded, "open_broker", lambda *a, **k: LosesAcks(open_broker(*a, **k), lost)
    )
    cards = range(10)
    jobs = [shop.charges.enqueue(n) for n in cards]
    shop.work()
    assert len(lost) == len(cards)
    assert shop.charged("naive") >= Counter([*cards, *cards]), "each was delivered again"
    naively = shop.charged("naive")
    jobs += [shop.charges.enqueue(n) for n in cards]
    lost.update(job.key for job in jobs)
    shop.work()
    assert shop.charged("naive") == naively, "what was recorded in the end is not run again"
    assert shop.charged("once") == Counter(cards)
    assert [job.result(0) for job in jobs] == [f"charged {n}" for n in (*cards, *cards)]


def test_an_answer_that_is_lost_after_the_acknowledgement_was_stored_costs_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "open_broker", lambda *a, **k: Deaf(open_broker(*a, **k)))
    first = shop.charges.enqueue(1)
    shop.work()
    second = shop.charges.enqueue(1)
    shop.work()
    assert shop.charged("naive") == Counter([1])
    assert [job.result(0) for job in (first, second)] == ["charged 1"] * 2


class Deaf:
    """A broker that does all it is asked, and whose first answer to each settlement is lost."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._known: set[tuple[bytes, int]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def settle(self, settlements: list[Settlement]) -> Any:
        answers = self._broker.settle(settlements)
        new = {(s.lease.message.id, s.lease.fence) for s in settlements} - self._known
        self._known |= new
        if new:
            raise BrokerUnavailable("no answer")
        return answers


def test_a_record_expires(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path / 'queue.db'}")
    runs: list[int] = []

    @app.task(idempotency_key="{n}", keep_key=1)
    def short(n: int) -> int:
        runs.append(n)
        return n

    with closing(app):
        short.enqueue(1)
        app.worker().drain()
        broker = open_broker(app.url, worker_id=b"look", clock=SystemClock())
        with closing(broker):
            assert runs == [1]

            def runs_again() -> bool:
                short.enqueue(1)
                app.worker().drain()
                return len(runs) == 2

            until(runs_again, "the record expired")
