"""A database file: opening it, what it must be set to, and the one way to write to it.

Owns the connection and the translation of every apsw exception.
Must never: know what is in the tables. Called by: brokers that are files.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import apsw

from dibs import errors
from dibs.local import disk, place, statements
from dibs.local.fork import drop_in_child
from dibs.local.lock import WriteLock
from dibs.local.prompt import prompt_interpreter

T = TypeVar("T")
OURS, SCHEMA = 0x64696273, 3  # as the last lines of create.sql say it
CALL_SECONDS = 5.0
LOCK_SHARE = 0.8  # of a call's time: the wait for our lock,
BUSY_SHARE = 0.18  # and for what does not queue on it, another program
DAMAGE = (apsw.CorruptError, apsw.SQLError, UnicodeDecodeError)
CONTENDED_SECONDS = 0.000_5  # an idle lock takes a hundredth of this
_of_parents: list[apsw.Connection] = []


class Undo(Exception):
    """Raised by work that is to be undone, and done in another way."""


class Unsure(Exception):
    """A commit broke off. It is not done, but may be found done after a power loss."""


class Database:
    """One connection to one file, and the statements of one folder, which hold its tables."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.sql = statements.load(Path(__file__).parent) | statements.load(folder)
        if apsw.SQLITE_VERSION_NUMBER < 3_051_003:
            found = apsw.sqlite_lib_version()
            raise errors.BrokerRefused(f"SQLite {found} can corrupt a queue file: upgrade apsw")
        self.path = place.checked(path)
        self._name = str(self.path)  # each commit looks at it, and a Path is made a text each time
        self.created = False
        self.contended = False
        """Whether others were at it when this process wanted to write the last time."""
        self._is_inherited = False
        self._call_seconds = self._until = math.inf
        self._reserve = disk.Reserve(disk.beside(self.path, "-reserve"))
        try:
            # With O_EXCL: to open and close a file that is open here would drop SQLite's locks.
            with contextlib.suppress(FileExistsError):
                os.close(disk.open_private(self.path, os.O_EXCL))
            self.connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
            self.hurry(CALL_SECONDS)
            self.connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            is_new = self._is_new()
            if self.connection.readonly("main"):
                raise PermissionError(errno.EACCES, "it is read-only", str(self.path))
            # Somebody else's umask made it, perhaps; SQLite makes the others as the file is.
            for suffix in ("", "-wal", "-shm"):
                disk.make_private(disk.beside(self.path, suffix))
            self._lock = WriteLock(self.path)
        except OSError as error:
            raise disk.unusable(self.path, error) from error
        except apsw.Error as error:
            raise self._translated(error) from error
        drop_in_child(self)
        with self.closed_if_refused():
            self._place = self._found()
            if is_new:
                self._create()
            self.run("set")
            self.verify()

    @contextlib.contextmanager
    def closed_if_refused(self) -> Iterator[None]:
        """Do within it what opening takes: if that raises, nobody will close the file."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def run(self, statement: str, *values: Any, **named: Any) -> list[Any]:
        """Run a statement of the `.sql` files and return its rows."""
        if self._is_inherited:
            raise self._inherited()
        try:
            return self.connection.execute(self.sql[statement], named or values).fetchall()
        except (apsw.Error, OverflowError, UnicodeDecodeError) as error:
            raise self._translated(error, statement) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Make values of rows within it: where none can be made of a row, the file is damaged."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def write(
        self,
        work: Callable[[], T],
        otherwise: Callable[[], T] | None = None,
        *,
        storing: bool = False,
        wait: float | None = None,
        unsure: type[Exception] = errors.BrokerUnavailable,
        then: Iterable[Callable[[], object]] = (),
    ) -> T:
        """Run `work` in a transaction of its own; when this returns, it is durable.

        `then` are called after the commit, before anybody else gets the lock.

        If it raises `Undo`, what it did is undone, and `otherwise` runs in its place. When the disk
        is full, what ends or moves messages may use the reserve. What stores new ones may not, and
        must not while the reserve is spent. If nobody can tell whether it is done, that is raised
        as `unsure`.
        """
        if self._is_inherited:
            raise self._inherited()
        longest = LOCK_SHARE * self._call_seconds if wait is None else wait
        deadline = min(self._until, time.monotonic() + longest)
        try:
            try:
                return self._locked(work, otherwise, deadline, storing, then)
            except errors.BrokerFull:
                if storing:
                    raise
            self._reserve.spend()
            self.checkpoint()
            return self._locked(work, otherwise, deadline, storing, then)
        except Unsure as error:
            raise unsure(*error.args) from error.__cause__

    def write_or(
        self, unknown: T, work: Callable[[], T], otherwise: Callable[[], T] | None = None
    ) -> T:
        """Run `work` as `write` does; return `unknown` if nobody can tell whether it is done."""
        try:
            return self.write(work, otherwise, unsure=Unsure)
        except Unsure:
            return unknown

    def hurry(self, seconds: float) -> None:
        """Have each call end within `seconds` from now on, whatever others do."""
        if seconds < self._call_seconds:
            self._call_seconds = seconds
            self.connection.set_busy_timeout(int(BUSY_SHARE * seconds * 1_000))

    @contextlib.contextmanager
    def one_call(self) -> Iterator[None]:
        """Let all that waits for the lock within it wait no longer than one may."""
        outer, self._until = self._until, time.monotonic() + self.lock_seconds
        try:
            yield
        finally:
            self._until = outer

    @property
    def lock_seconds(self) -> float:
        """How long the lock may be waited for from now on."""
        left = self._until - time.monotonic()
        return max(0.0, min(LOCK_SHARE * self._call_seconds, left))

    def busy(self) -> errors.BrokerBusy:
        """Return the error that names who holds the lock."""
        return errors.BrokerBusy(self._lock.holder())

    def _inherited(self) -> errors.BrokerError:
        return errors.BrokerError(f"{self.path} was opened before a fork: open it anew")

    def checkpoint(self) -> None:
        """Move what can be moved from the log into the file, waiting for nobody."""
        with contextlib.suppress(apsw.Error):
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def check_file(self) -> None:
        """Refuse a file that was removed or replaced: what is stored there, nobody else would see.

        It costs a microsecond, so it is for a transaction, not for a job.
        """
        if self._found() != self._place:
            why = f"{self.path} is not the file any more that was opened here"
            raise errors.BrokerUnavailable(f"{why}: start this process again")

    def verify(self) -> None:
        """Check that the file is set to what the guarantees rest on."""
        for name, found, needed in self.run("wrong_settings"):
            why = f"{self.path}: {name} is {found}, and {needed} is needed"
            raise errors.BrokerRefused(f"{why}: move its jobs to a new queue file")

    def close(self) -> None:
        """Close what this process opened."""
        if not self._is_inherited:
            self._lock.close()
            self._reserve.drop()
            with contextlib.suppress(apsw.Error):
                self.connection.close()

    def drop(self) -> None:
        """In a forked child, keep the parent's connection from ever being closed."""
        self._is_inherited = True
        _of_parents.append(self.connection)
        self._reserve.drop()

    def _locked(
        self,
        work: Callable[[], T],
        otherwise: Callable[[], T] | None,
        deadline: float,
        storing: bool,
        then: Iterable[Callable[[], object]],
    ) -> T:
        # Around the lock as well: each of its system calls gives the interpreter's lock away too.
        with prompt_interpreter:
            asked = time.monotonic()
            try:
                self._lock.acquire(deadline - asked)
                self.contended = time.monotonic() - asked > CONTENDED_SECONDS
                self.check_file()
                if storing:
                    self._reserve.keep()
                try:
                    answer = self._transaction(work)
                except Undo:
                    if otherwise is None:
                        raise
                    answer = self._transaction(otherwise)
                for tell in then:
                    tell()
                return answer
            finally:
                self._lock.release()

    def _transaction(self, work: Callable[[], T]) -> T:
        try:
            # Inside, because a signal's handler may raise anywhere: a transaction that stayed open
            # would hold the file until this process dies.
            self.run("begin")
            answer = work()
            self.run("commit")
        except BaseException:
            with contextlib.suppress(apsw.ConnectionClosedError):
                if self.connection.in_transaction:
                    self.run("rollback")
            raise
        return answer

    def _found(self) -> tuple[int, int] | None:
        """Return which file is at the path now."""
        try:
            found = os.stat(self._name)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _is_new(self) -> bool:
        ((owner, schema, tables),) = self.run("identity")
        if owner == tables == 0:
            return True
        if owner != OURS:
            raise errors.BrokerRefused(f"{self.path} is another program's database: choose another")
        if schema > SCHEMA:
            why = f"{self.path} has schema {schema}, and this dibs knows up to {SCHEMA}"
            raise errors.SchemaTooNew(f"{why}: upgrade dibs; nothing was changed")
        if schema < SCHEMA:
            why = f"{self.path} has schema {schema}, of a dibs before its first release"
            raise errors.BrokerRefused(f"{why}: drain it with that one, and name a new file")
        return False

    def _create(self) -> None:
        try:
            self._lock.acquire(LOCK_SHARE * CALL_SECONDS)
            self._reserve.keep()
            if self._is_new():
                self.run("before_creation")
                try:
                    self._transaction(lambda: self.run("tables"))
                except Unsure as error:
                    raise errors.BrokerUnavailable(*error.args) from error.__cause__
                self.created = True
        finally:
            self._lock.release()

    def _damaged(self, error: Exception) -> errors.BrokerDamaged:
        why = error if isinstance(error, apsw.Error) else "a value in it cannot be read"
        way = "restore a backup, or save what can be read: docs/operations.md, A damaged file"
        return errors.BrokerDamaged(f"{self.path} is damaged ({why}): {way}")

    def _translated(self, error: Exception, statement: str = "") -> errors.BrokerError | Unsure:
        if isinstance(error, DAMAGE):
            return self._damaged(error)
        at_the_disk = isinstance(error, apsw.IOError)
        number = 0
        if at_the_disk or isinstance(error, apsw.CantOpenError):
            with contextlib.suppress(AttributeError):  # there is no connection yet
                number = self.connection.system_errno
        if isinstance(error, apsw.FullError) or (at_the_disk and number in disk.FULL):
            return disk.full(self.path)
        if isinstance(error, apsw.BusyError):
            return errors.BrokerBusy(f"{self.path}: another program has it locked")
        if isinstance(error, apsw.NotADBError):
            what = f"{self.path} is not a queue file, or its beginning is damaged"
            return errors.BrokerRefused(f"{what}: choose another, or restore a backup")
        if at_the_disk or isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError):
            why = f"{error} ({os.strerror(number)})" if number else error
            way = "check the disk, and the owner and mode of the file and of those beside it"
            if at_the_disk and statement == "commit":
                return Unsure(f"{self.path}: the commit broke off: {why}: {way}")
            return errors.BrokerUnavailable(f"{self.path}: {why}: {way}")
        return errors.BrokerUnavailable(f"{self.path}: {error!r}")
