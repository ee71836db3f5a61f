"""What the ledger needs of a caller's connection, whatever library it is of.

Owns: that interface, the rules of a transaction, and the text for a transaction that was broken.
Must never: import a database library, or know the ledger's table.
Called by: `drivers`, `frameworks`, `kinds`, `table`, `entry`.

A connection that is in no transaction is given one, which ends with the block. One that is in a
transaction stays in it: its end is the caller's. In both cases a savepoint is around the block. It
undoes a block that raised, and its release proves that the block is still in the transaction that
it began in: a block may commit on its own, and after an error that was ignored PostgreSQL answers
COMMIT by rolling back in silence.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from dibs.errors import LedgerError

Row = tuple[Any, ...]
Value = str | int | None


class Connection(Protocol):
    """One connection; SQL comes with a `?` for each value.

    `dialect` is "sqlite", "postgresql", or what else the library calls its database.
    """

    dialect: str

    def transaction(self) -> AbstractContextManager[None]:
        """Begin a transaction, or join the one there is; an exception undoes what was done in it.

        Raises:
            LedgerError: the block ended the transaction, or ignored an error that broke it.
        """
        ...

    def rows(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of a query."""
        ...

    def change(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it changed."""
        ...


def broken_transaction() -> LedgerError:
    """Return the error for a block that is not in its transaction any more."""
    return LedgerError(
        "the transaction of `once` was committed or rolled back inside its block, or broken by an"
        " error that the block ignored: leave its end to `once` or, if you began it yourself, to"
        " after the block"
    )
