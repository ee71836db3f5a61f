"""Enqueueing in a transaction of the caller's own, on every kind of connection."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from dibs import App
from dibs.errors import OptionError, PayloadTooLarge
from dibs.message import Ack
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import claim, claim_all, claim_one, ids, message, publish, settle
from tests.ledger.shops import KINDS, Kind, Place, Shop
from tests.servers.postgres import Server
from tests.unit.postgres.conftest import Open

ON_POSTGRES = [kind for kind in KINDS if kind.dialect == "postgresql"]


@pytest.fixture(params=ON_POSTGRES, ids=lambda kind: kind.name)
def shop(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Shop:
    """A shop, whose database has the queues too."""
    kind: Kind = request.param
    return Shop(kind, Place(tmp_path, server.folder, server.new_database()))


@pytest.fixture
def app(shop: Shop) -> Iterator[App]:
    """An app whose queues are in the shop's database."""
    app = App(shop.place.url)
    yield app
    app.close()


def ship(order: int) -> None:
    """What is enqueued."""
    del order


def test_rule_07_a_job_is_there_if_and_only_if_the_transaction_commits(
    shop: Shop, app: App, opened: Open
) -> None:
    """With what else it wrote, and not before."""
    task = app.task(queue="photos")(ship)
    broker = opened(at=shop.place.url)
    with shop.open() as connection:
        with shop.own(connection):
            shop.charge(connection, 1)
            job = task.options(connection=connection).enqueue(1)
            assert claim_all(broker) == []
        assert shop.charged() == [1]
        lease = claim_one(broker)
        assert lease.message.id == job.key
        assert lease.message.args == b'{"order":1}'
        settle(broker, lease, Ack())
        with suppress(ZeroDivisionError), shop.own(connection):
            shop.charge(connection, 2)
            task.options(connection=connection).enqueue(2)
            raise ZeroDivisionError
    assert shop.charged() == [1]
    assert claim_all(broker) == []


def test_rule_07_the_commit_rings_whoever_waits(shop: Shop, app: App, opened: Open) -> None:
    """Also one who began to wait after the enqueueing."""
    task = app.task(queue="photos")(ship)
    early, late = opened(at=shop.place.url), opened(at=shop.place.url)
    with shop.open() as connection:
        for waiting in (early, late):
            waiting.bell()
            if waiting is early:
                assert claim(waiting, limit=10) == []
            with shop.own(connection):
                task.options(connection=connection).enqueue(1)
                assert claim(waiting, limit=10) == []
                assert rung(waiting, within=0) == []
            if waiting is early:
                assert rung(waiting) == [waiting]
                assert len(claim(waiting, limit=10)) == 1
                early.claim(["photos"], 0)


def test_rule_23_an_open_transaction_holds_up_nobody_who_waits(
    shop: Shop, app: App, opened: Open
) -> None:
    """Its enqueueing chose somebody to be rung, who goes on meanwhile; then the commit rings."""
    task = app.task(queue="photos")(ship)
    broker, waiting = opened(at=shop.place.url), opened(at=shop.place.url)
    broker.declare(["photos"])
    waiting.bell()
    assert claim(waiting, limit=10) == []
    with shop.open() as connection:
        with shop.own(connection):
            job = task.options(connection=connection).enqueue(1)
            publish(broker, message())
            assert rung(waiting) == [waiting]
            started = time.monotonic()
            assert len(claim(waiting)) == 1
            assert time.monotonic() - started < 1
            assert claim(waiting) == []
            assert rung(waiting, within=0) == []
        assert rung(waiting) == [waiting]
        assert ids(claim(waiting)) == [job.key]


def test_an_open_transaction_holds_up_nobody_who_uses_its_new_queue(
    shop: Shop, app: App, opened: Open
) -> None:
    """It enqueues the first job there; a queue made in it would be nobody's until its end."""
    task, broker = app.task(queue="photos")(ship), opened(at=shop.place.url)
    with shop.open() as connection, shop.own(connection):
        task.options(connection=connection).enqueue(1)
        broker.declare(["photos"])
        other = publish(broker, message())
        assert ids(claim_all(broker)) == ids(other)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_began_before_its_new_queue_is_tried_again(
    server: Server, opened: Open, level: str
) -> None:
    url = server.url(server.new_database())
    app, broker = App(url), opened(at=url)
    task = app.task(queue="photos")(ship)
    with psycopg.connect(url) as connection:
        for tries in range(2):
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            connection.execute("SELECT 1")
            if tries:
                task.options(connection=connection).enqueue(1)
                continue
            with pytest.raises(psycopg.errors.SerializationFailure):
                task.options(connection=connection).enqueue(1)
            connection.rollback()
    assert len(claim_all(broker)) == 1
    app.close()


def test_rule_05_a_duplicate_names_the_live_job(shop: Shop, app: App) -> None:
    """Of a transaction that committed before."""
    keyed = app.task(queue="photos")(ship).options(unique_key="order-1")
    first = keyed.enqueue(1)
    with shop.open() as connection, shop.own(connection):
        second = keyed.options(connection=connection).enqueue(1)
    assert second.duplicate
    assert second.key == first.key


def test_a_refused_job_leaves_the_transaction_whole(shop: Shop, app: App) -> None:
    """It is refused before anything is sent."""

    @app.task
    def store(text: str) -> None:
        del text

    app.task(ship).enqueue(1)
    with shop.open() as connection, shop.own(connection):
        with pytest.raises(PayloadTooLarge):
            store.options(connection=connection).enqueue("x" * 2_000_000)
        shop.charge(connection, 1)
    assert shop.charged() == [1]


def test_a_connection_to_another_database_is_refused(server: Server, opened: Open) -> None:
    """Whether or not it has queues too: a job must not land where nobody looks for it."""
    app = App(server.url(server.new_database()))
    task = app.task(ship)
    task.enqueue(0)
    elsewhere = server.url(server.new_database())
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        with pytest.raises(OptionError, match="does not lead to the queues"):
            task.options(connection=connection).enqueue(1)
        opened(at=elsewhere)
        with pytest.raises(OptionError, match="are not postgresql"):
            task.options(connection=connection).enqueue(1)
        assert connection.execute("SELECT count(*) FROM dibs.message").fetchone() == (0,)
    app.close()


def test_what_cannot_use_a_connection_says_so(server: Server, tmp_path: Path) -> None:
    """Another broker, another library, and the calls that work in other threads."""
    with psycopg.connect(server.url("postgres")) as connection:
        elsewhere = App(f"sqlite:///{tmp_path / 'queue.db'}")
        with pytest.raises(OptionError, match="`connection=` needs a broker"):
            elsewhere.task(ship).options(connection=connection).enqueue(1)
        elsewhere.close()
        app = App(server.url("postgres"))
        task = app.task(ship)
        with pytest.raises(OptionError, match=r"`connection` is a builtins\.int"):
            task.options(connection=1)
        with pytest.raises(OptionError, match="`bind` does not use your connection"):
            task.options(connection=connection).bind(1)
        coroutine = task.options(connection=connection).aenqueue(1)
        with pytest.raises(OptionError, match="`aenqueue` does not use your connection"):
            coroutine.send(None)
        app.close()
