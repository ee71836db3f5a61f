"""The schema: who makes it, when, and who may do what with it."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dibs.brokers.contract import Applied, Broker, Stored
from dibs.brokers.postgres import MIGRATIONS, open_postgres, open_url
from dibs.cli import main
from dibs.clock import SystemClock
from dibs.errors import BrokerRefused, SchemaTooNew
from dibs.message import Ack
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import claim, claim_one, message, publish, settle
from tests.unit.postgres.conftest import Open

PAGE = Path(__file__).parents[3] / "docs/postgres.md"


def test_the_first_to_open_makes_the_schema_and_all_who_come_meanwhile_find_it(url: str) -> None:
    """However many come at once."""
    brokers: list[Broker] = []

    def come() -> None:
        brokers.append(open_url(url, clock=SystemClock(), worker_id=os.urandom(16)))

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [broker.created for broker in brokers].count(True) == 1
    assert len(brokers) == 8
    for broker in brokers:
        publish(broker, message())
        broker.close()


def test_a_newer_schema_is_refused(opened: Open, sql: psycopg.Connection) -> None:
    """And left as it is, by opening and by `dibs migrate`."""
    opened()
    sql.execute("INSERT INTO migration(version, name) VALUES (999, 'of a later release')")
    with pytest.raises(SchemaTooNew, match=r"has version 999, .* upgrade dibs"):
        opened()


def test_an_older_schema_waits_for_dibs_migrate(
    opened: Open, sql: psycopg.Connection, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Opening changes nothing that is there; the command runs what is missing, and only that."""
    opened()
    later = tmp_path / "0006_later.sql"
    later.write_text("CREATE TABLE later(n integer);")
    monkeypatch.setattr("dibs.brokers.postgres.MIGRATIONS", [*MIGRATIONS, later])
    with pytest.raises(BrokerRefused, match="needs 6: run `dibs migrate`"):
        opened()
    assert main(["migrate", "--url", url]) == 0
    assert sql.execute("SELECT count(*) FROM later").fetchone() == (0,)
    assert not opened().created


def test_dibs_migrate_makes_the_schema_and_says_so(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; the second time there is nothing to do."""
    assert main(["migrate", "--url", url]) == 0
    assert f"{len(MIGRATIONS)} migrations run" in capsys.readouterr().out
    assert main(["migrate", "--url", url]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["migrate", "--url", "sqlite:///a.db"]) == 2
    assert "only PostgreSQL has" in capsys.readouterr().err


def test_a_role_that_may_not_make_the_schema_is_told_who_must(
    sql: psycopg.Connection, url: str
) -> None:
    """Rather than that something is missing."""
    sql.execute("CREATE ROLE guest LOGIN")
    guest = url.replace("dibs@", "guest@")
    try:
        with pytest.raises(BrokerRefused, match="must run `dibs migrate` first"):
            open_url(guest, clock=SystemClock(), worker_id=os.urandom(16))
    finally:
        sql.execute("DROP ROLE guest")


def test_a_schema_that_somebody_made_for_its_role_is_filled(
    sql: psycopg.Connection, url: str
) -> None:
    """Who may make tables in it need not be allowed to make schemas."""
    schema = url.partition("&schema=")[2]
    sql.execute(f"CREATE ROLE tenant LOGIN; CREATE SCHEMA {schema} AUTHORIZATION tenant")
    tenant = url.replace("dibs@", "tenant@")
    try:
        broker = open_url(tenant, clock=SystemClock(), worker_id=os.urandom(16))
        assert broker.created
        broker.close()
    finally:
        sql.execute(f"DROP SCHEMA {schema} CASCADE; DROP ROLE tenant")


def test_connections_of_ones_own_making_do(url: str, opened: Open) -> None:
    """Two of them, which are the broker's from then on."""
    opened()
    plain, _, schema = url.partition("&schema=")
    made: list[psycopg.Connection] = []

    def connect(seconds: float) -> psycopg.Connection:
        assert 0 < seconds <= 5
        made.append(psycopg.connect(plain))
        return made[-1]

    broker = open_postgres(connect, clock=SystemClock(), worker_id=os.urandom(16), schema=schema)
    broker.bell()
    assert claim(broker, limit=10) == []
    publish(broker, message())
    assert rung(broker) == [broker]
    assert settle(broker, claim_one(broker), Ack()) == Applied()
    broker.close()
    assert len(made) == 2
    assert all(connection.closed for connection in made)


@pytest.fixture
def roles(sql: psycopg.Connection, url: str) -> Iterator[dict[str, str]]:
    """The three roles of the docs, as the docs make them, by the URL that each would use."""
    open_url(url, clock=SystemClock(), worker_id=os.urandom(16)).close()
    (script,) = re.findall(r"```sql\n(-- roles\n.*?)```", PAGE.read_text(), re.DOTALL)
    schema = url.partition("&schema=")[2]
    names = ("dibs_producer", "dibs_worker", "dibs_viewer")
    script = script.replace("SCHEMA dibs", f"SCHEMA {schema}").replace("dibs.", f"{schema}.")
    sql.execute(script)
    yield {name: url.replace("dibs@", f"{name}@") for name in names}
    for name in names:
        sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_each_role_may_do_its_part_and_no_more(
    roles: dict[str, str], opened: Open, sql: psycopg.Connection
) -> None:
    """A producer enqueues, a worker does the jobs too, a viewer looks."""
    producer = opened(at=roles["dibs_producer"])
    worker = opened(at=roles["dibs_worker"])
    viewer = opened(at=roles["dibs_viewer"])
    producer.declare(["photos"])
    assert producer.publish([message(), message()]) == [Stored(), Stored()]
    with pytest.raises(BrokerRefused, match="permission denied for function claim"):
        claim(producer)
    worker.bell()
    held = claim_one(worker)
    assert worker.extend([held])
    assert worker.results([held.message.id]) == [None]
    assert settle(worker, held, Ack(b"1", 60_000)) == Applied()
    worker.idle()
    with pytest.raises(BrokerRefused, match="permission denied for function last_place"):
        worker.inspector().purge("photos")
    (counts,) = viewer.inspector().queues()
    assert (counts.name, counts.ready) == ("photos", 1)
    assert len(viewer.inspector().dead()) == 0
    with pytest.raises(BrokerRefused, match="permission denied for function publish"):
        viewer.publish([message()])
    schema = sql.execute("SHOW search_path").fetchone()
    for role in ("dibs_producer", "dibs_worker"):
        with (
            psycopg.connect(roles[role].partition("&schema=")[0]) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"SELECT * FROM {schema and schema[0]}.message")
