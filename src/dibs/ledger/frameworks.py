"""The connections of SQLAlchemy and Django.

Owns: doing it their way, so that what they track of a transaction (objects to be written, hooks on
commit) stays true.
Must never: import one of them; a connection's own module is loaded already.
Called by: `kinds`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from dibs.errors import LedgerError
from dibs.ledger.connections import Row, Value, broken_transaction

_BEGIN = "BEGIN IMMEDIATE"
"""Left to itself, sqlite3 begins at the first write only. A savepoint before that would be a
transaction of its own, and its release a commit."""

_MARKS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


class SqlAlchemy:
    """A SQLAlchemy `Session` or `Connection`."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        dialect = _bound(owner).dialect
        self.dialect: str = dialect.name
        if dialect.paramstyle not in _MARKS:
            raise LedgerError(
                f"`once` cannot pass values to the driver {dialect.driver}: use sqlite3, psycopg or"
                " psycopg2 below SQLAlchemy"
            )
        self._mark = _MARKS[dialect.paramstyle]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction, or join the one there is."""
        with nullcontext() if self._owner.in_transaction() else self._owner.begin():
            if self.dialect == "sqlite" and not self._has_begun():
                self._run(_BEGIN)
            with self._owner.begin_nested() as savepoint:
                yield
                if not savepoint.is_active:
                    raise broken_transaction()

    def rows(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of a query."""
        return [tuple(row) for row in self._run(sql, values).fetchall()]

    def change(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it changed."""
        return int(self._run(sql, values).rowcount)

    def _has_begun(self) -> bool:
        return bool(self._connection().connection.driver_connection.in_transaction)

    def _run(self, sql: str, values: tuple[Value, ...] = ()) -> Any:
        return self._connection().exec_driver_sql(sql.replace("?", self._mark), values)

    def _connection(self) -> Any:
        owner = self._owner
        return owner.connection() if hasattr(owner, "get_bind") else owner


def _bound(owner: Any) -> Any:
    """Return the engine or connection that a Session or Connection is of.

    Raises:
        LedgerError: a Session is bound to none, or to several, each for some of its classes.
    """
    if not hasattr(owner, "get_bind"):
        return owner
    try:
        return owner.get_bind()
    except sys.modules["sqlalchemy.exc"].UnboundExecutionError as error:
        raise LedgerError(
            "this Session is not bound to one database, so `once` cannot tell which is meant: give"
            " `once` the connection where the effect is, as `session.connection(...)` returns it"
        ) from error


class Django:
    """A connection of Django: `django.db.connection`, or one of `django.db.connections`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect: str = connection.vendor
        known: Any = sys.modules["django.db"]
        if known.connections[connection.alias] != connection:
            raise LedgerError(
                f"this is not Django's own connection {connection.alias!r} of this thread, which"
                " `transaction.atomic` would use: give `django.db.connections[alias]`"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction, or join the one there is."""
        transaction: Any = sys.modules["django.db.transaction"]
        alias = self._connection.alias
        own = self._connection.get_autocommit()
        if not own and self.dialect == "sqlite" and not self._connection.connection.in_transaction:
            self.change(_BEGIN)
        with transaction.atomic(alias) if own else nullcontext(), transaction.atomic(alias):
            yield
            if self._connection.needs_rollback:
                raise broken_transaction()

    def rows(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of a query."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), values)
            return list(cursor.fetchall())

    def change(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it changed."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), values)
            return int(cursor.rowcount)
