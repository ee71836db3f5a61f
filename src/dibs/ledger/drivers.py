"""The connections of sqlite3, apsw, psycopg and psycopg2.

Owns: how each of them begins, ends and runs a statement.
Must never: import one of them; a connection's own module is loaded already.
Called by: `kinds`.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dibs.ledger.connections import Row, Value, broken_transaction

_OPEN = (1, 2, 3)
"""libpq's transaction status while there is one: active, in a transaction, in a failed one."""


class Driver(ABC):
    """A connection of a driver, and the one order in which a transaction begins and ends on it."""

    dialect: str

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction, or join the one there is."""
        if self._in_transaction():
            with self._savepoint():
                yield
            return
        self._begin()
        try:
            with self._savepoint():
                yield
            self._commit()
        except BaseException:
            # A database may have ended it by itself: SQLite does when the disk is full.
            if self._in_transaction():
                self._rollback()
            raise

    def rows(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of a query."""
        return list(self._run(sql, values).fetchall())

    @abstractmethod
    def change(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it changed."""

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._run("SAVEPOINT dibs_once")
        try:
            yield
        except BaseException:
            if self._in_transaction():
                self._run("ROLLBACK TO SAVEPOINT dibs_once")
                self._run("RELEASE SAVEPOINT dibs_once")
            raise
        try:
            self._run("RELEASE SAVEPOINT dibs_once")
        except Exception as error:
            raise broken_transaction() from error

    @abstractmethod
    def _run(self, sql: str, values: tuple[Value, ...] = ()) -> Any:
        """Run a statement on a cursor that no setting of the user's changes; return it."""

    @abstractmethod
    def _in_transaction(self) -> bool: ...

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _rollback(self) -> None: ...


class Sqlite3(Driver):
    """A `sqlite3.Connection`."""

    dialect = "sqlite"

    def change(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it changed."""
        return int(self._run(sql, values).rowcount)

    def _run(self, sql: str, values: tuple[Value, ...] = ()) -> Any:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        return cursor.execute(sql, values)

    def _in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def _begin(self) -> None:
        # A plain BEGIN takes the lock at its first write, and fails if it has read before.
        self._run("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        self._run("COMMIT")

    def _rollback(self) -> None:
        self._run("ROLLBACK")


class Apsw(Sqlite3):
    """An `apsw.Connection`."""

    def change(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it changed."""
        self._run(sql, values)
        return int(self._connection.changes())

    def _run(self, sql: str, values: tuple[Value, ...] = ()) -> Any:
        cursor = self._connection.cursor()
        cursor.row_trace = lambda _, row: row
        return cursor.execute(sql, values)


class _Postgres(Driver):
    dialect = "postgresql"

    def change(self, sql: str, *values: Value) -> int:
        return int(self._run(sql, values).rowcount)

    def _run(self, sql: str, values: tuple[Value, ...] = ()) -> Any:
        cursor = self._cursor()
        cursor.execute(sql.replace("?", "%s"), values)
        return cursor

    @abstractmethod
    def _cursor(self) -> Any: ...

    def _in_transaction(self) -> bool:
        return self._connection.info.transaction_status in _OPEN

    def _begin(self) -> None:
        if self._connection.autocommit:
            self._run("BEGIN")  # otherwise the driver begins before the first statement

    def _commit(self) -> None:
        if self._connection.autocommit:
            self._run("COMMIT")
        else:
            self._connection.commit()

    def _rollback(self) -> None:
        if self._connection.autocommit:
            self._run("ROLLBACK")
        else:
            self._connection.rollback()


class Psycopg(_Postgres):
    """A `psycopg.Connection`."""

    def _cursor(self) -> Any:
        psycopg: Any = sys.modules["psycopg"]
        return psycopg.Cursor(self._connection, row_factory=psycopg.rows.tuple_row)


class Psycopg2(_Postgres):
    """A `psycopg2.extensions.connection`."""

    def _cursor(self) -> Any:
        plain: Any = sys.modules["psycopg2.extensions"]
        return self._connection.cursor(cursor_factory=plain.cursor)
