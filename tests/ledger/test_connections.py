"""What is particular to a library: its settings, implicit transactions, what it tracks itself."""

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import psycopg.rows
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy
from django.db import connections, transaction
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session

from dibs import once
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock
from dibs.errors import LedgerError
from dibs.ledger import CREATE_TABLE
from tests.ledger.shops import KINDS, Kind, Place, Shop, job, sql_alchemy

ON_SQLITE = [kind for kind in KINDS if kind.dialect == "sqlite"]
SESSIONS = [sql_alchemy(driver, "Session") for driver in ("sqlite", "psycopg")]


def kinds(*names: str) -> pytest.MarkDecorator:
    chosen = [kind for kind in KINDS if kind.name in names]
    assert len(chosen) == len(names)
    return pytest.mark.parametrize("kind", chosen, ids=lambda kind: kind.name)


class Base(DeclarativeBase):
    """The tables of the ORM."""


class Charge(Base):
    """A charge as an object."""

    __tablename__ = "charges"
    n: Mapped[int] = mapped_column(primary_key=True)


def enter(connection: object, key: str = "key") -> None:
    with once(connection, key):
        pass


# Which connections


@pytest.mark.parametrize("kind", ON_SQLITE, ids=lambda kind: kind.name)
def test_a_queue_file_is_refused_and_left_as_it_is(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    open_sqlite(path, clock=SystemClock(), worker_id=b"test").close()
    before = path.read_bytes()
    with kind.open(Place(path)) as connection, pytest.raises(LedgerError, match="queue file"):
        enter(connection)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "wrong", [17, None, "sqlite:///shop.db", sqlalchemy.create_engine("sqlite://")], ids=repr
)
def test_what_is_no_connection_is_refused(wrong: object) -> None:
    with pytest.raises(LedgerError, match=r"cannot be kept on `.*`: give a connection of"):
        enter(wrong)


def test_a_connection_of_django_that_is_not_its_own_is_refused() -> None:
    with pytest.raises(LedgerError, match="not Django's own connection 'default'"):
        enter(connections["default"].copy())


def test_another_database_is_refused() -> None:
    engine = sqlalchemy.create_mock_engine("mysql://", print)
    with pytest.raises(LedgerError, match="this is mysql"):
        enter(Session(engine))


def test_a_session_of_no_one_database_is_refused_and_its_connection_does() -> None:
    """It has an engine for each class: which of them is meant, it cannot tell."""

    class Base(DeclarativeBase): ...

    engine = sqlalchemy.create_engine("sqlite://")
    with Session(binds={Base: engine}) as session:
        with pytest.raises(LedgerError, match=r"not bound to one database.*session\.connection"):
            enter(session)
        enter(session.connection(bind_arguments={"bind": engine}))


# Settings of a connection


def sqlite3_rows(connection: Any) -> None:
    connection.row_factory = sqlite3.Row


def dicts(cursor: Any, row: Any) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def sqlite3_dicts(connection: Any) -> None:
    connection.row_factory = dicts


def apsw_dicts(connection: Any) -> None:
    connection.row_trace = lambda _, row: {"row": row}


def psycopg_dicts(connection: Any) -> None:
    connection.row_factory = psycopg.rows.dict_row
    connection.cursor_factory = psycopg.RawCursor


def psycopg2_dicts(connection: Any) -> None:
    connection.cursor_factory = psycopg2.extras.RealDictCursor


SETTINGS = {
    "sqlite3": (sqlite3_rows, sqlite3_dicts),
    "apsw": (apsw_dicts,),
    "psycopg": (psycopg_dicts,),
    "psycopg2": (psycopg2_dicts,),
}


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, change) for kind in KINDS for change in SETTINGS.get(kind.name, ())],
    ids=lambda value: value.name if isinstance(value, Kind) else value.__name__,
)
def test_how_rows_are_shown_to_the_user_does_not_matter(
    shop: Shop, change: Callable[[Any], None]
) -> None:
    with shop.open() as connection:
        change(connection)
        with job(fence=1), once(connection) as first:
            first.record(1)
        with job(fence=2), once(connection) as first:
            assert (bool(first), first.result) == (False, 1)


# sqlite3


@kinds("sqlite3")
def test_a_transaction_that_the_driver_began_is_the_callers(shop: Shop) -> None:
    with shop.open() as connection:
        connection.execute("INSERT INTO charges VALUES (7)")
        enter(connection)
        assert (shop.charged(), shop.keys()) == ([], [])
        connection.commit()
    assert (shop.charged(), shop.keys()) == ([7], ["key"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has `autocommit` since 3.12")
@kinds("sqlite3")
def test_what_sqlite3_calls_autocommit_says_whose_the_commit_is(shop: Shop) -> None:
    connect: Any = sqlite3.connect
    with closing(connect(shop.place.path, autocommit=False)) as always_in_a_transaction:
        enter(always_in_a_transaction)
        assert shop.keys() == []
        always_in_a_transaction.commit()
        assert shop.keys() == ["key"]
    with closing(connect(shop.place.path, autocommit=True)) as connection:
        enter(connection, "other")
        assert shop.keys() == ["key", "other"]


# PostgreSQL


@kinds("psycopg", "psycopg2")
def test_an_aborted_transaction_is_not_joined(shop: Shop) -> None:
    with shop.open() as connection:
        with pytest.raises((psycopg.Error, psycopg2.Error)):
            connection.cursor().execute("SELECT 1/0")
        with pytest.raises((psycopg.Error, psycopg2.Error), match="aborted"):
            enter(connection)


@kinds("psycopg")
def test_a_user_who_may_not_make_tables_needs_none_made(shop: Shop) -> None:
    with shop.outside() as run:
        run(CREATE_TABLE)
        run("CREATE ROLE clerk")
        run("GRANT SELECT, INSERT, UPDATE ON dibs_ledger TO clerk")
    try:
        with shop.open() as connection:
            connection.execute("SET ROLE clerk")
            connection.commit()
            enter(connection)
        assert shop.keys() == ["key"]
    finally:
        with shop.outside() as run:
            run("DROP OWNED BY clerk")
            run("DROP ROLE clerk")


@kinds("psycopg")
def test_a_run_that_was_cut_off_leaves_the_effect_to_the_next(shop: Shop) -> None:
    def cut_off(connection: Any) -> None:
        with once(connection):
            shop.charge(connection, 1)
            with shop.outside() as run:
                run(f"SELECT pg_terminate_backend({connection.info.backend_pid})")

    with shop.open() as connection, job(fence=1), pytest.raises((LedgerError, psycopg.Error)):
        cut_off(connection)
    with shop.open() as connection, job(fence=2), once(connection) as first:
        assert first
        shop.charge(connection, 1)
    assert shop.charged() == [1]


# SQLAlchemy


@pytest.mark.parametrize("kind", SESSIONS, ids=lambda kind: kind.name)
def test_objects_are_written_with_the_row(shop: Shop) -> None:
    with shop.open() as session:
        with once(session, "key") as first:
            assert first
            session.add(Charge(n=1))
        assert (shop.charged(), shop.keys()) == ([1], ["key"])


def add_and_fail(session: Any) -> None:
    with once(session, "key"):
        session.add(Charge(n=1))
        raise KeyError("the other half")


@pytest.mark.parametrize("kind", SESSIONS, ids=lambda kind: kind.name)
def test_objects_of_a_block_that_failed_are_forgotten(shop: Shop) -> None:
    with shop.open() as session:
        with session.begin():
            session.add(Charge(n=7))
            with pytest.raises(KeyError):
                add_and_fail(session)
        assert (shop.charged(), shop.keys()) == ([7], [])


@pytest.mark.parametrize("kind", SESSIONS, ids=lambda kind: kind.name)
def test_a_session_that_has_read_is_the_callers_to_commit(shop: Shop) -> None:
    # Where sqlite3 has not begun, a savepoint alone would commit at its end.
    with shop.open() as session:
        assert session.get(Charge, 1) is None
        enter(session)
        assert shop.keys() == []
        session.rollback()
        enter(session)
        assert shop.keys() == ["key"]


@pytest.mark.parametrize("kind", SESSIONS, ids=lambda kind: kind.name)
def test_a_scoped_session_is_the_session_of_its_thread(shop: Shop) -> None:
    with shop.open() as session:
        scoped = scoped_session(lambda: session)
        enter(scoped)
    assert shop.keys() == ["key"]


@kinds("SQLAlchemy Connection on psycopg", "SQLAlchemy Connection on psycopg2")
def test_a_connection_that_commits_each_statement_is_refused(shop: Shop) -> None:
    with shop.open() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="transaction block"):
            enter(autocommit)
    assert shop.keys() == []


# Django


@kinds("Django on default", "Django on postgresql")
def test_what_waits_for_the_commit_runs_after_it(shop: Shop) -> None:
    seen: list[list[str]] = []
    with shop.open() as connection:
        with once(connection, "key"):
            transaction.on_commit(lambda: seen.append(shop.keys()), using=connection.alias)
            assert seen == []
        assert seen == [["key"]]


def doom(connection: Any) -> None:
    with once(connection, "key"):
        transaction.set_rollback(True, using=connection.alias)


@kinds("Django on default", "Django on postgresql")
def test_a_block_that_is_to_be_rolled_back_is_no_success(shop: Shop) -> None:
    with shop.open() as connection, pytest.raises(LedgerError, match="rolled back inside"):
        doom(connection)
    assert shop.keys() == []


@kinds("Django on default", "Django on postgresql")
def test_without_autocommit_the_commit_is_the_callers(shop: Shop) -> None:
    with shop.open() as connection:
        connection.set_autocommit(False)
        enter(connection)
        connection.rollback()
        assert shop.keys() == []
        enter(connection)
        connection.commit()
        assert shop.keys() == ["key"]


def test_the_proxy_that_users_import_is_recognised(tmp_path: Path) -> None:
    from django.db import connection

    connection.settings_dict.update(NAME=str(tmp_path / "shop.db"))
    with closing(connection):
        enter(connection)
        with once(connection, "key") as first:
            assert not first
