"""A schema in the database: made at the first use, brought up to date by `dibs migrate`.

Owns: the order of migrations, and that one process at a time runs them.
Must never: run one twice, or touch a schema that a newer dibs made.
Called by: adapters, `dibs migrate`. A schema has a function `about()`, which tells its version.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg import Connection, Error, IsolationLevel, sql

from dibs.errors import BrokerRefused, SchemaTooNew
from dibs.wires.libpq.session import Connect, Failed, Session, meaning, reached

Step = Path
"""A file `NNNN_name.sql`; the number of the last one is the version of the schema."""

_THERE = (
    "SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
    " WHERE n.nspname = {} AND p.proname = 'about' AND p.pronargs = 0"
)
"""Read from the tables: to_regprocedure may answer what was so before the wait for one's turn."""

_ADVICE = {
    "42501": "a role that may create a schema must run `dibs migrate` first",
    "25006": "nothing can be stored; if it is a standby, name the primary, or all hosts and"
    " target_session_attrs=read-write; if not, ALTER ROLE name SET default_transaction_read_only"
    " = off",
}
"""How to mend it, by the SQLSTATE with which no schema can be made."""


def prepare(session: Session, connect: Connect, steps: Sequence[Step]) -> int:
    """Make the schema of a session if there is none; return the version before.

    Raises:
        SchemaTooNew, BrokerRefused, BrokerUnavailable: as `migrate`.
    """
    there = _THERE.format(sql.quote(session.schema))
    found = int(session.call("about")[0][0]) if session.execute(there)[0] else 0
    if found != len(steps):
        session.close()
        with reached(connect, session.limit.seconds, session.shown) as connection:
            return migrate(connection, session.schema, steps, session.shown, only_new=True)
    return found


def migrate(
    connection: Connection[Any],
    schema: str,
    steps: Sequence[Step],
    shown: str,
    *,
    only_new: bool = False,
) -> int:
    """Run the steps that are missing, in one transaction; return the version before.

    The connection is to be closed after this.

    `only_new`: make a schema that is not there, and leave an old one as it is.

    Raises:
        SchemaTooNew: a newer dibs made it.
        BrokerRefused: this role may not, nothing can be stored, or an old one is to be left.
        BrokerUnavailable: the server went away, or somebody else is at it for too long.
    """
    try:
        connection.autocommit = True
        found = _version(connection, schema)
        if found == 0 or (found < len(steps) and not only_new):
            # So that it sees what another process ran while it waited for its turn.
            connection.isolation_level = IsolationLevel.READ_COMMITTED
            with connection.transaction():
                _lock(connection, schema)
                found = _version(connection, schema)
                _run(connection, schema, found, steps)
    except Error as error:
        failed = Failed(error.sqlstate or "08006", str(error).partition("\n")[0])
        if advice := _ADVICE.get(failed.state):
            raise BrokerRefused(f"{shown}: {failed}: {advice}") from error
        raise meaning(failed, shown) from error
    if found > len(steps):
        raise SchemaTooNew(
            f"{shown}: the schema {schema} has version {found}, and this dibs knows"
            f" {len(steps)}: upgrade dibs; nothing was changed"
        )
    if 0 < found < len(steps) and only_new:
        raise BrokerRefused(
            f"{shown}: the schema {schema} has version {found}, and this dibs needs"
            f" {len(steps)}: run `dibs migrate`"
        )
    return found


def _version(connection: Connection[Any], schema: str) -> int:
    if connection.execute(_THERE.format("%s"), (schema,)).fetchone() is None:
        return 0
    name = sql.Identifier(schema)
    row = connection.execute(sql.SQL("SELECT version FROM {}.about()").format(name)).fetchone()
    return int(row[0]) if row else 0


def _lock(connection: Connection[Any], schema: str) -> None:
    """Wait for one's turn, which ends with the transaction: a pooler gives the connection away.

    The lock is of the database, for the schema may not be there yet.
    """
    connection.execute("SET LOCAL lock_timeout = '4s'")
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"dibs {schema}",))


def _run(connection: Connection[Any], schema: str, done: int, steps: Sequence[Step]) -> None:
    name = sql.Identifier(schema)
    there = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,))
    if there.fetchone() is None:  # asked first: to say IF NOT EXISTS takes the right to make one
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    connection.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(name))
    for number, path in enumerate(steps[done:], done + 1):
        connection.execute(path.read_bytes())
        connection.execute(
            "INSERT INTO migration(version, name) VALUES (%s, %s)", (number, path.stem)
        )
