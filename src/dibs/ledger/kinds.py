"""Which connections a ledger can be kept on.

Owns: recognising them by the names of their classes, so that no database library is imported.
Called by: `entry`, `table`.
"""

from collections.abc import Callable
from typing import Any

from dibs.errors import LedgerError
from dibs.ledger import drivers, frameworks
from dibs.ledger.connections import Connection

_KINDS: dict[tuple[str, str], Callable[[Any], Connection]] = {
    ("sqlite3", "Connection"): drivers.Sqlite3,
    ("apsw", "Connection"): drivers.Apsw,
    ("psycopg", "Connection"): drivers.Psycopg,
    ("psycopg2", "connection"): drivers.Psycopg2,
    ("sqlalchemy", "Connection"): frameworks.SqlAlchemy,
    ("sqlalchemy", "Session"): frameworks.SqlAlchemy,
    ("sqlalchemy", "scoped_session"): lambda scoped: frameworks.SqlAlchemy(scoped()),
    ("django", "BaseDatabaseWrapper"): frameworks.Django,
    ("django", "ConnectionProxy"): frameworks.Django,
}
"""By the library and the name of a class or of one of its bases."""


def connected(connection: object) -> Connection:
    """Return the ledger's side of a caller's connection.

    Raises:
        LedgerError: no ledger can be kept on it; the text says on what it can.
    """
    for kind in type(connection).__mro__:
        make = _KINDS.get((kind.__module__.partition(".")[0], kind.__name__))
        if make is not None:
            found = make(connection)
            if found.dialect not in ("sqlite", "postgresql"):
                raise LedgerError(f"a ledger needs SQLite or PostgreSQL: this is {found.dialect}")
            return found
    kind = type(connection)
    raise LedgerError(
        f"a ledger cannot be kept on `{kind.__module__}.{kind.__qualname__}`: give a connection of"
        " sqlite3, apsw, psycopg or psycopg2, a SQLAlchemy Session or Connection (no engine, and"
        " none of the async ones), or `django.db.connection`"
    )
