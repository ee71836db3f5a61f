"""The table `dibs_ledger`: one row for each effect that is done.

Owns: every statement on it, when it is made, and how long its rows are kept.
Must never: begin or end a transaction but for `prune`, or be kept in a queue file.
Called by: `entry`, the command line, user code (`prune`, `CREATE_TABLE`).
"""

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from dibs.clock import SystemClock
from dibs.errors import LedgerError
from dibs.ledger.connections import Connection
from dibs.ledger.kinds import connected
from dibs.local.database import OURS
from dibs.local.statements import load
from dibs.options import Seconds, milliseconds

KEPT = timedelta(days=30)
"""How old a row gets: no job may come back later than that."""

_SQL = load(Path(__file__).parent)
_clock = SystemClock()

CREATE_TABLE = _SQL["create"]
"""The statement that makes the table, for whoever does not want it to be made at its first use."""


class Found(NamedTuple):
    """A row that was there already; `fence` is None if the run that wrote it was of another job."""

    fence: int | None
    result: str | None


def insert(connection: Connection, key: str, job: str | None, fence: int) -> Found | None:
    """Write the row of `key`, or return the one that is there.

    Waits for a transaction that has written it and has not ended. The table is made if it is not
    there, within the transaction.

    Raises:
        LedgerError: the database is a queue file.
    """
    found: list[Found] = []
    while not found:
        added = _insert(connection, key, job, fence)
        # On SQLite nothing may be read before this write: the snapshot of a transaction that began
        # by reading cannot be written to once another has committed.
        _refuse_queue_file(connection)
        if added:
            return None
        # None there either: it was pruned in between.
        found = [Found(*row) for row in connection.rows(_SQL["find"], job, key)]
    return found[0]


def record(connection: Connection, key: str, result: str) -> None:
    """Write the result of `key` into its row."""
    connection.change(_SQL["record"], result, key)


def prune(connection: object, older: Seconds = KEPT, *, dry_run: bool = False) -> int:
    """Delete the rows of effects that were done long ago; return how many they are.

    Begins and ends a transaction if the connection is in none, as `once` does.

    Args:
        connection: as for `once`.
        older: seconds, or a `timedelta`. A job that comes back after its row was pruned runs again,
            so this is longer than any delay, retry or redrive of yours.
        dry_run: only count them.

    Raises:
        LedgerError: no ledger can be kept on this connection.
        OptionError: `older` is not what it can be.
    """
    before_ms = _clock.wall_ms() - milliseconds("older", older)
    asked = connected(connection)
    with asked.transaction():
        _refuse_queue_file(asked)
        if not asked.rows(_SQL[f"exists_in_{asked.dialect}"]):
            return 0
        if dry_run:
            return int(asked.rows(_SQL["count_old"], before_ms)[0][0])
        return asked.change(_SQL["delete_old"], before_ms)


def _insert(connection: Connection, key: str, job: str | None, fence: int) -> bool:
    values = (key, job, fence, _clock.wall_ms())
    if connection.dialect == "sqlite":
        try:
            return connection.change(_SQL["insert"], *values) == 1
        except Exception as error:  # each driver has a class of its own for it
            if "no such table" not in str(error):
                raise
    # In PostgreSQL an error would end the transaction, so it is asked.
    elif connection.rows(_SQL["exists_in_postgresql"]):
        return connection.change(_SQL["insert"], *values) == 1
    else:
        connection.rows(_SQL["lock_in_postgresql"])
    connection.change(CREATE_TABLE)
    return connection.change(_SQL["insert"], *values) == 1


def _refuse_queue_file(connection: Connection) -> None:
    if connection.dialect == "sqlite" and connection.rows(_SQL["owner_in_sqlite"]) == [(OURS,)]:
        raise LedgerError(
            "this database is a queue file of dibs, which no other program may open: two SQLite"
            " libraries in one process drop each other's locks. Keep the ledger where the effects"
            " are, in a database of your own"
        )
