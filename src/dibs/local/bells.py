"""Who waits for work, or for the end of a job, and how to wake those who should know.

Owns the folder `<db>-bells`: a FIFO for each broker that waits, and for each queue it waits for
an entry `<queue>@<waiter>`. Whoever removes an entry rings that waiter, so no ring is spent on a
waiter that was rung already, and no two publishers ring the same one. `ends/<waiter>` holds the ids
whose ends a broker waits for; each of them rings it. They have a folder of their own because every
acknowledgement looks there, and must not pay for the workers that wait for work. A FIFO has its
name from the moment on that its owner has it open: one that nobody reads is of a dead process.
Must never: fail a call whose transaction is committed; a lost bell costs a second, no message.
Called by: brokers that are files.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from dibs.errors import BrokerUnavailable
from dibs.local.fork import drop_in_child

RING = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
NOBODY = (errno.ENXIO, errno.ENOENT)
"""What opening a bell says if nobody reads it: its process is dead."""
NEW = "+"
"""Ends the name of a FIFO that its owner has not open yet, for some microseconds,"""
NEW_SECONDS = 3_600.0
"""or for ever, if its owner died in them: after this time nobody will open it any more."""
TICK_NS = 2_000_000_000
"""A folder's time of change goes on by this at most: by milliseconds on most file systems, but some
keep whole seconds."""
LOOKED_AT = 250
"""How many waiters one chore looks at: some milliseconds, if all of them are dead."""


class Listing:
    """The names in a folder, read again when it has changed.

    Every publisher and every acknowledgement looks, and mostly nothing has changed: to ask for the
    time of the last change is a quarter of the cost of reading the names.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._changed_ns = -1
        self._names: list[str] = []

    def names(self) -> list[str]:
        """Return them; none, if there is no such folder."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
            if changed_ns == self._changed_ns:
                return self._names
            self._names = os.listdir(self._folder)
        except OSError:
            return []
        # What changes within the tick of the last change, and after it was read, has its time too.
        settled = time.time_ns() - changed_ns > TICK_NS
        self._changed_ns = changed_ns if settled else -1
        return self._names


class Bells:
    """The bell of one broker, and the way to everybody else's."""

    def __init__(self, folder: Path, worker_id: bytes) -> None:
        self._folder = str(folder)
        self._ends = f"{folder}/ends"
        self._listed = Listing(self._folder).names
        self._awaiting = Listing(self._ends).names
        self._name = f"{worker_id.hex()}-{os.urandom(4).hex()}"
        self._fd = -1
        self._awaited: frozenset[bytes] = frozenset()
        self.owed = False
        """Whether it was rung and has not claimed since. A ring may come before the commit of what
        it is for: then no look finds that, but only a claim, which waits for the lock."""
        self._asked: set[str] = set()
        """The queues that this waiter asks to be rung for; whoever rings takes the wish away."""
        self._rang: dict[str, str] = {}
        """The entry that was rung last for each queue: whoever waits again has the same."""
        self._looked_at = ""

    def fd(self) -> int:
        """Return the descriptor that becomes readable when this waiter is rung."""
        if self._fd < 0:
            try:
                self._fd = self._hung_up()
            except OSError as error:
                raise BrokerUnavailable(f"no bell can be hung up: {error}") from error
            drop_in_child(self)
        return self._fd

    def drain(self) -> bool:
        """Have the bell be silent again; say whether a ring is owed."""
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                while len(os.read(self._fd, 4096)) == 4096:
                    pass
                self.owed = True
        return self.owed

    def arm(self, queues: Iterable[str]) -> bool:
        """Ask to be rung for `queues`; say whether any of them was not asked for before."""
        if self._fd < 0:
            return False
        self._asked.update(queues)
        return sum(map(self._ask, queues)) > 0

    def disarm(
        self, queues: Collection[str], rung: bool, left: Callable[[], Collection[str]]
    ) -> None:
        """Ask no more: a waiter with no room must not catch a ring that an idle one could use.

        One that it was given (`rung`) or catches just now is passed on for all queues: what it is
        for may not be to be seen yet. Else another is woken for what is `left`, if one waits.
        """
        if self._take_back(queues) or rung:
            self.ring(queues)
        elif self._waiting():
            self.ring(left())

    def ring(self, queues: Collection[str]) -> None:
        """Wake one waiter of each queue."""
        if queues and (entries := self._listed()):
            for queue in queues:
                names = (name for name in entries if name.startswith(queue + "@"))
                if rung := next(filter(self._rung, names), None):
                    self._rang[queue] = rung

    def ring_again(self, queues: Iterable[str]) -> list[str]:
        """Wake who was rung last for each queue; return the queues of which that one does not wait.

        It looks for nobody else, so it costs next to nothing where nobody waits.
        """
        silent: list[str] = []
        for queue in queues:
            entry = self._rang.get(queue)
            if entry is None or not self._rung(entry):
                self._rang.pop(queue, None)
                silent.append(queue)
        return silent

    def await_ends(self, ids: Iterable[bytes]) -> bool:
        """Ask to be rung when one of `ids` ends, and no other; say whether any of them is new."""
        if self._awaited and not os.path.exists(f"{self._ends}/{self._name}"):
            self._awaited = frozenset()  # somebody cleared the folder away
        wanted = frozenset(ids)
        if self._fd < 0 or wanted == self._awaited:
            return False
        new, self._awaited = not wanted <= self._awaited, wanted
        try:
            if wanted:
                self._write_ends(b"".join(wanted))
            else:
                os.unlink(f"{self._ends}/{self._name}")
        except OSError:
            self._awaited = frozenset()  # to be tried again the next time
        return new

    def ring_ends(self, ended: Iterable[bytes]) -> None:
        """Wake all who wait for one of these; `ended` is not read if nobody waits."""
        if waiters := self._awaiting():
            over = frozenset(ended)
            for waiter in waiters:
                if self._awaits_any(waiter, over):
                    self._wake(waiter)

    def bury_dead(self) -> None:
        """Remove what dead processes left behind, of some waiters at a time.

        Whoever rings one removes it too, but nothing may be left that would ring for it, and every
        publisher reads the folder.
        """
        names: dict[str, list[str]] = {waiter: [] for waiter in self._awaiting()}
        for name in self._listed():
            names.setdefault(name.rpartition("@")[2].removesuffix("~"), []).append(name)
        names.pop("ends", None)
        later = sorted(waiter for waiter in names if waiter > self._looked_at)
        for waiter in later[:LOOKED_AT]:
            if self._is_dead(waiter):
                self._remove(waiter, names[waiter])
        self._looked_at = later[LOOKED_AT - 1] if len(later) >= LOOKED_AT else ""

    def close(self) -> None:
        """Remove this waiter's files."""
        if self._fd >= 0:
            self._bury(self._name)
        self.drop()

    def drop(self) -> None:
        """Close the descriptor and nothing else: what a forked child does with its copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _hung_up(self) -> int:
        """Make the FIFO, and return a descriptor of it."""
        path = self._path(self._name + NEW)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder)
        os.chmod(self._folder, 0o700)  # whatever the umask
        os.mkfifo(path)
        os.chmod(path, 0o600)
        # Open for both ways: a FIFO without a writer would be readable for ever.
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.rename(path, self._path(self._name))
        except OSError:
            os.close(fd)
            raise
        return fd

    def _take_back(self, queues: Collection[str]) -> bool:
        """Take the wishes back; return whether one was taken by somebody who rings for it."""
        caught = False
        for queue in self._asked.intersection(queues):
            self._asked.discard(queue)
            try:
                os.unlink(self._path(f"{queue}@{self._name}"))
            except OSError:
                caught = True
        return caught

    def _waiting(self) -> list[str]:
        """Return the entries of all who wait."""
        return [name for name in self._listed() if "@" in name]

    def _ask(self, queue: str) -> bool:
        names = self._path(self._name), self._path(f"{queue}@{self._name}")
        with contextlib.suppress(OSError):
            try:
                os.link(*names)
            except FileNotFoundError:
                self._hang_up_again()
                os.link(*names)
            return True
        return False

    def _hang_up_again(self) -> None:
        """Make the FIFO anew: somebody cleared the folder away, and nobody could ring us."""
        fd = self._hung_up()
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def _rung(self, entry: str) -> bool:
        try:
            os.unlink(self._path(entry))
        except OSError:
            return False
        return self._wake(entry.partition("@")[2])

    def _wake(self, waiter: str) -> bool:
        if (fd := self._opened(waiter)) < 0:
            return False
        try:
            os.write(fd, b"!")
        except BlockingIOError:
            return True  # full, so readable
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def _opened(self, waiter: str) -> int:
        try:
            return os.open(self._path(waiter), RING)
        except OSError as error:
            if error.errno in NOBODY:
                self._bury(waiter)
        return -1

    def _is_dead(self, waiter: str) -> bool:
        try:
            if waiter.endswith(NEW):
                made = os.stat(self._path(waiter)).st_ctime
                return time.time() - made > NEW_SECONDS
            os.close(os.open(self._path(waiter), RING))
        except OSError as error:
            return error.errno in NOBODY
        return False

    def _awaits_any(self, waiter: str, ended: frozenset[bytes]) -> bool:
        try:
            with open(f"{self._ends}/{waiter}", "rb") as file:
                ids = file.read()
        except OSError:
            return False
        return any(ids[at : at + 16] in ended for at in range(0, len(ids), 16))

    def _write_ends(self, ids: bytes) -> None:
        if not os.path.exists(self._path(self._name)):
            self._hang_up_again()
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._ends, 0o700)
        unseen = self._path(f"{self._name}~")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(unseen, flags, 0o600)
        try:
            os.write(fd, ids)
        finally:
            os.close(fd)
        os.replace(unseen, f"{self._ends}/{self._name}")  # whole or not at all

    def _bury(self, waiter: str) -> None:
        own = (waiter, f"{waiter}~")
        names = [name for name in self._listed() if name in own or name.endswith("@" + waiter)]
        self._remove(waiter, names)

    def _remove(self, waiter: str, names: Iterable[str]) -> None:
        for path in (f"{self._ends}/{waiter}", *map(self._path, names)):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
