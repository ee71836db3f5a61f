"""`once`: an effect in your own database, done once however often its job is delivered.

Owns: whose turn it is (the first, a later one, one that is too late), and the result that is kept.
Must never: let the row of an effect be committed apart from the effect.
Called by: user code, as `dibs.once`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from dibs.brokers.contract import MAX_NAME_BYTES
from dibs.codec import encode_value
from dibs.errors import LeaseLost, LedgerError, ResultError
from dibs.ledger import table
from dibs.ledger.connections import Connection
from dibs.ledger.kinds import connected
from dibs.running import current


class Entry:
    """What the ledger says of a key: true if its effect is yours to do, false if it is done.

    It equals `True` or `False`, as `first == False`. (It is neither: Python has but one of each, so
    `first is False` never holds.)
    """

    __slots__ = ("_connection", "_first", "_key", "_result")

    def __init__(
        self, connection: Connection, key: str, *, first: bool, result: str | None
    ) -> None:
        self._connection: Connection | None = connection
        self._key = key
        self._first = first
        self._result = result

    def __bool__(self) -> bool:
        return self._first

    def __eq__(self, other: object) -> bool:
        return self._first is other if isinstance(other, bool) else self is other

    def __hash__(self) -> int:
        return hash(self._first)

    def __repr__(self) -> str:
        return f"<Entry {self._key}: {'first' if self._first else 'done'}>"

    @property
    def result(self) -> Any:
        """What was recorded with the effect, as JSON gives it back; None if nothing was."""
        return None if self._result is None else msgspec.json.decode(self._result)

    def record(self, value: object) -> None:
        """Keep `value` with the effect, for those who come later; of several the last counts.

        Args:
            value: what JSON can carry; also dataclasses, datetimes and the like, which come back as
                plain data.

        Raises:
            ResultError: it has no JSON form.
            LedgerError: the effect was done by an earlier run, or the block is over.
        """
        if self._connection is None:
            raise LedgerError(f"the block of {self!r} is over: record inside it")
        if not self._first:
            raise LedgerError(f"{self!r}: an earlier run has recorded its result; read `.result`")
        try:
            result = encode_value(value).decode()
        except ValueError as error:
            raise ResultError(f"what is to be recorded {error}") from error
        table.record(self._connection, self._key, result)
        self._result = result

    def close(self) -> None:
        """Take no more results."""
        self._connection = None


@contextmanager
def once(connection: object, key: str | None = None) -> Iterator[Entry]:
    """Do an effect in your own database once, however often its job is delivered.

        with once(connection) as first:
            if first:
                connection.execute("INSERT INTO charges ...")
                first.record({"receipt": 17})
        return first.result

    At the start of the block a row for `key` is written into the table `dibs_ledger` of the same
    database, which is made at its first use. The row and what the block writes through `connection`
    are committed together or not at all. Two runs of one job at a time: the second waits for the
    first, or fails and is tried again, and then finds it done.

    A connection that is in no transaction is given one, which is committed at the end of the block
    and rolled back if the block raises. In a transaction of yours the block is a savepoint: **you
    commit**, after it. Never commit or roll back inside the block.

    What the block does elsewhere (a mail, a call of an API) is not undone with it.

    Args:
        connection: of sqlite3, apsw, psycopg or psycopg2; a SQLAlchemy Session or Connection;
            `django.db.connection`. Never to the queue file.
        key: 1 to 512 bytes; by default the running job's id, for one block in each job. With keys
            of your own, several jobs, or several blocks of one job, can share a ledger.

    Yields:
        True, so to speak, if the effect is yours to do; false if it is done. See `Entry`.

    Raises:
        LeaseLost: a later run of this job has done it; nothing was written. This run's outcome
            would be refused too.
        LedgerError: no key, no connection that a ledger can be kept on, a queue file, a second
            block with the job's id for a key, or a block that ended the transaction itself.
    """
    job = current.get()
    name, fence = (None, 0) if job is None else (job.job_id, job.fence)
    own = _checked(name if key is None else key)
    held = connected(connection)
    with held.transaction():
        found = table.insert(held, own, name, fence)
        if found is not None and found.fence is not None:
            _check_fence(found.fence, fence, own, by_default=key is None)
        result = None if found is None else found.result
        entry = Entry(held, own, first=found is None, result=result)
        try:
            yield entry
        finally:
            entry.close()


def _checked(key: object) -> str:
    if key is None:
        raise LedgerError("no job is running here, so `once` needs a key: `once(connection, key)`")
    if (
        isinstance(key, str)
        and key.isprintable()
        and 0 < len(key.encode(errors="replace")) <= MAX_NAME_BYTES
    ):
        return key
    raise LedgerError(f"the key {key!r:.80} is not printable text of 1 to {MAX_NAME_BYTES} bytes")


def _check_fence(found: int, mine: int, key: str, *, by_default: bool) -> None:
    if mine < found:
        raise LeaseLost(
            f"{key} was done by a later run of this job, under fence {found}; this one has"
            f" fence {mine}, and wrote nothing"
        )
    if mine == found and by_default:
        raise LedgerError(
            "this run has used the job's id as a key already, so a second block would always be"
            " skipped: give each a key of its own, as in"
            " `once(connection, f'{dibs.context().job_id}/mail')`"
        )
