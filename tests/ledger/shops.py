"""Every kind of connection that `once` takes, as the tests use it: a shop with a table of charges.

Owns: how each library opens, writes, and brackets a transaction of the caller's. What is counted is
read through a connection of its own, so that only what is committed counts. (By the same SQLite
library: two of them in one process drop each other's locks on a file.)
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import django
import psycopg
import psycopg2
import sqlalchemy
from django.conf import settings
from django.db import connections, transaction
from sqlalchemy.orm import Session

from dibs.clock import SystemClock
from dibs.message import Lease, Message
from dibs.running import JobContext, current

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        "postgresql": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"},
    },
    USE_TZ=True,
)
django.setup()

JOB = bytes(15) + b"\1"
OTHER_JOB = bytes(15) + b"\2"


class Place(NamedTuple):
    """Where a shop's database is: a file, or a database of the server in `folder`."""

    path: Path
    folder: Path | None = None
    name: str = ""

    @property
    def url(self) -> str:
        return f"postgresql://dibs@/{self.name}?host={self.folder}"


class Kind(NamedTuple):
    """One kind of connection."""

    name: str
    open: Callable[[Place], AbstractContextManager[Any]]
    run: Callable[[Any, str], object]
    own: Callable[[Any], AbstractContextManager[object]]
    commit: Callable[[Any], object]

    @property
    def dialect(self) -> str:
        return "postgresql" if "psycopg" in self.name or "postgresql" in self.name else "sqlite"


class Shop:
    """The shop on one kind of connection."""

    def __init__(self, kind: Kind, place: Place) -> None:
        self.kind = kind
        self.place = place
        with self.outside() as run:
            run("CREATE TABLE charges (n INTEGER UNIQUE)")

    def open(self) -> AbstractContextManager[Any]:
        """Open a connection."""
        return self.kind.open(self.place)

    def own(self, connection: Any) -> AbstractContextManager[object]:
        """Bracket a transaction of the caller's."""
        return self.kind.own(connection)

    def charge(self, connection: Any, n: int) -> None:
        """Do the effect."""
        self.kind.run(connection, f"INSERT INTO charges VALUES ({n})")

    def charged(self) -> list[int]:
        """Return what is committed."""
        with self.outside() as run:
            return [n for (n,) in run("SELECT n FROM charges ORDER BY n")]

    def keys(self) -> list[str]:
        """Return the ledger's keys that are committed; none where there is no table."""
        with self.outside() as run:
            table = {"sqlite": "sqlite_master", "postgresql": "pg_tables"}[self.kind.dialect]
            column = {"sqlite": "name", "postgresql": "tablename"}[self.kind.dialect]
            if not run(f"SELECT 1 FROM {table} WHERE {column} = 'dibs_ledger'"):
                return []
            return [key for (key,) in run("SELECT key FROM dibs_ledger ORDER BY key")]

    @contextmanager
    def outside(self) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        """Run statements through a connection that commits each."""
        if self.kind.dialect == "postgresql":
            with psycopg.connect(self.place.url, autocommit=True) as pg:
                yield lambda sql: _fetched(pg.execute(sql))
        elif self.kind.name == "apsw":
            with closing(apsw.Connection(str(self.place.path))) as plain:
                yield lambda sql: list(plain.execute(sql))
        else:
            with closing(sqlite3.connect(self.place.path, isolation_level=None)) as lite:
                yield lambda sql: lite.execute(sql).fetchall()


def _fetched(cursor: Any) -> list[tuple[Any, ...]]:
    return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def job(fence: int, id: bytes = JOB) -> Iterator[None]:
    """Be in a run of a job, as the runner makes it."""
    message = Message(id, "default", "charge", b"{}")
    lease = Lease(message, fence, 0, 0, fence - 1, 0, 0)
    token = current.set(JobContext(lease, SystemClock().monotonic() + 900))
    try:
        yield
    finally:
        current.reset(token)


@contextmanager
def by_statements(connection: Any) -> Iterator[None]:
    """Bracket a transaction by SQL."""
    _execute(connection, "BEGIN")
    try:
        yield
    except BaseException:
        _execute(connection, "ROLLBACK")
        raise
    _execute(connection, "COMMIT")


@contextmanager
def _after_a_statement(connection: Any) -> Iterator[None]:
    """Its `with` alone does not begin: the first statement does."""
    with connection:
        _execute(connection, "SELECT 1")
        yield


def _execute(connection: Any, sql: str) -> Any:
    return connection.cursor().execute(sql)


def _commit_statement(connection: Any) -> None:
    _execute(connection, "COMMIT")


def _commit(connection: Any) -> None:
    connection.commit()


@contextmanager
def _apsw(place: Place) -> Iterator[Any]:
    with closing(apsw.Connection(str(place.path))) as connection:
        connection.set_busy_timeout(5_000)
        yield connection


@contextmanager
def _psycopg2(place: Place, *, autocommit: bool = False) -> Iterator[Any]:
    with closing(psycopg2.connect(place.url)) as connection:
        connection.autocommit = autocommit
        yield connection


@contextmanager
def _engine(place: Place, driver: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(
        f"sqlite:///{place.path}"
        if driver == "sqlite"
        else place.url.replace("ql://", f"ql+{driver}://")
    )
    try:
        yield engine
    finally:
        engine.dispose()


def sql_alchemy(driver: str, what: str) -> Kind:
    """A `Session` or a `Connection` over a driver."""

    @contextmanager
    def opened(place: Place) -> Iterator[Any]:
        with (
            _engine(place, driver) as engine,
            Session(engine) if what == "Session" else engine.connect() as owner,
        ):
            yield owner

    return Kind(
        f"SQLAlchemy {what} on {driver}",
        opened,
        lambda owner, sql: owner.execute(sqlalchemy.text(sql)),
        lambda owner: owner.begin(),
        _commit,
    )


def django_on(alias: str) -> Kind:
    """A connection of Django; each thread has one of its own."""

    @contextmanager
    def opened(place: Place) -> Iterator[Any]:
        connection = connections[alias]
        name, host = (place.name, str(place.folder)) if place.folder else (str(place.path), "")
        connection.settings_dict.update(NAME=name, HOST=host, USER="dibs")
        try:
            yield connection
        finally:
            connection.close()

    def run(connection: Any, sql: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql)

    return Kind(f"Django on {alias}", opened, run, lambda c: transaction.atomic(c.alias), _commit)


KINDS = [
    Kind(
        "sqlite3",
        lambda place: closing(sqlite3.connect(place.path)),
        _execute,
        by_statements,
        _commit,
    ),
    Kind(
        "sqlite3, autocommit",
        lambda place: closing(sqlite3.connect(place.path, isolation_level=None)),
        _execute,
        by_statements,
        _commit_statement,
    ),
    Kind("apsw", _apsw, _execute, by_statements, _commit_statement),
    Kind(
        "psycopg",
        lambda place: closing(psycopg.connect(place.url)),
        _execute,
        lambda connection: connection.transaction(),
        _commit,
    ),
    Kind(
        "psycopg, autocommit",
        lambda place: closing(psycopg.connect(place.url, autocommit=True)),
        _execute,
        lambda connection: connection.transaction(),
        _commit,
    ),
    Kind("psycopg2", _psycopg2, _execute, _after_a_statement, _commit),
    Kind(
        "psycopg2, autocommit",
        lambda place: _psycopg2(place, autocommit=True),
        _execute,
        by_statements,
        _commit_statement,
    ),
    *(
        sql_alchemy(driver, what)
        for driver in ("sqlite", "psycopg", "psycopg2")
        for what in ("Session", "Connection")
    ),
    django_on("default"),
    django_on("postgresql"),
]
