"""Who waits for work, or for the end of a job, and how to wake those who should know.

Owns the folder `<db>-bells`: a FIFO for each broker that waits, and for each queue it waits for
an entry, `<queue>@<waiter>`, or `<queue>=<waiter>` of one that has found nothing and does nothing
but wait: to that one a message may be handed over. Whoever removes an entry rings that waiter, so
no ring is spent on a waiter that was rung already, and no two publishers ring the same one; who
hands over makes `=` into `@`, and no two hand over to the same one. What is in `ends/` is
`Awaited`.
Must never: fail a call whose transaction is committed; a lost bell costs a second, no message.
Called by: brokers that are files.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from dibs.errors import BrokerUnavailable
from dibs.local import fifo
from dibs.local.awaited import Awaited
from dibs.local.fifo import NEW, NOBODY
from dibs.local.fork import drop_in_child
from dibs.local.listing import Board, Listing

RUNG, CALLED, HANDED = b"!", b"?", b"="
"""What is written to a bell: look; wait, for something is being committed for you alone, with what
that is, after its length in two bytes; and that it is committed."""
LONGEST_NOTE = fifo.WHOLE_BYTES - 3
FIFO_BYTES = 65_536
SIGNS = re.compile("[@=]")
OTHER = {"@": "=", "=": "@"}
"""Of each sign."""
CALLED_MS = 2
"""How long who is called waits for what is handed over, before it asks for the lock instead: a
commit takes a tenth of it. To be woken from it is quicker than to get the lock."""
NEW_SECONDS = 3_600.0
"""After this time nobody will open a FIFO any more that is still a new one: its owner died."""
LOOKED_AT = 250
"""How many waiters one chore looks at: some milliseconds, if all of them are dead."""


class Bells:
    """The bell of one broker, and the way to everybody else's."""

    def __init__(self, folder: Path, worker_id: bytes, board: Board) -> None:
        self._folder = str(folder)
        self._entries = Listing(self._folder, board, "bells")
        self._name = f"{worker_id.hex()}-{os.urandom(4).hex()}"
        self._awaited = Awaited(self._folder, self._name, board)
        self._fd = -1
        self.owed = False
        """Whether it was rung and has not claimed since. A ring may come before the commit of what
        it is for: then no look finds that, but only a claim, which waits for the lock."""
        self._asked: dict[str, str] = {}
        """The queues that this waiter asks to be rung for, each with its sign, `@` or `=`; whoever
        rings takes the wish away."""
        self.handed: list[bytes] = []
        """What was handed over to this waiter, and is not taken yet."""
        self.called_for = b""
        """What the last caller is committing for this waiter. It may never be."""
        self._is_called = False
        """Whether something is being committed for this waiter."""
        self._is_rung = self._asked_ahead = False
        """Whether it was rung since it asked last; and whether it asked while it was called."""
        self.may_be_called = False
        """Whether something may be handed over that was not heard of. Only who has the lock, and
        has drained the bell since, knows that nothing is: then all who were called are told."""
        self._callee = -1
        """The bell of whom this one has called, until it is told."""
        self._usual: dict[str, str] = {}
        """The entry that was called last for each queue: whoever waits again has the same."""
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
            heard = b""
            with contextlib.suppress(BlockingIOError):
                while len(more := os.read(self._fd, FIFO_BYTES)) == FIFO_BYTES:
                    heard += more
                heard += more
            self.owed = self.owed or bool(heard)
            self._hear(heard)
        return self.owed

    def listen(self, meanwhile: Callable[[], object]) -> bool:
        """Drain the bell; if something is being committed for us, wait for it a little."""
        self._asked_ahead = False
        self.drain()
        if self._is_called:
            meanwhile()
            fifo.wait(self._fd, CALLED_MS)
            self.drain()
            self._is_called = False  # else who called is dead, and each claim would wait for it
        return self.owed

    def stay_rung(self) -> None:
        """Have the bell go on ringing if something was handed over: it is for a claim to take."""
        if self.handed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._fd, RUNG)

    def arm(self, queues: Iterable[str], *, idle: bool) -> bool:
        """Ask to be rung for `queues` and no other; say whether any was not asked for before.

        An `idle` waiter may be handed a message instead. To be asked only by one that has found
        nothing: what is handed to one that is busy would wait for it.
        """
        if self._fd < 0:
            return False
        wishes = dict.fromkeys(queues, "=" if idle else "@")
        asked_ahead, self._asked_ahead = self._asked_ahead, False
        if asked_ahead and not self._is_rung and wishes == self._asked:
            return False
        self._is_rung = False
        self._take_back(self._asked.keys() - wishes.keys())
        self.may_be_called = self.may_be_called or idle
        return sum([self._ask(*wish) for wish in wishes.items()]) > 0

    def arm_ahead(self, queues: Iterable[str]) -> None:
        """Do before what it is called for is there what the next `arm` would do after it."""
        self.arm(queues, idle=False)
        self._asked_ahead = True

    def disarm(
        self, queues: Collection[str], rung: bool, left: Callable[[], Collection[str]]
    ) -> None:
        """Ask no more: a waiter with no room must not catch a ring that an idle one could use.

        One that it was given (`rung`) or catches just now is passed on for all queues: what it is
        for may not be to be seen yet. Else another is woken for what is `left`, if one waits.
        """
        if self._take_back(list(self._asked)) or rung:
            self.ring(queues)
        elif self._waiting():
            self.ring(left())

    def ring(self, queues: Collection[str]) -> None:
        """Wake one waiter of each queue."""
        if queues and (entries := self._entries.names()):
            for queue in queues:
                names = (name for name in entries if name.startswith((f"{queue}@", f"{queue}=")))
                next(filter(self._rung, names), None)

    def reach(self, queue: str) -> bool:
        """Find one to whom a message may be handed over, and whom nobody else reaches any more."""
        if self._entries.are_old() and (usual := self._usual.get(queue)) and self._reached(usual):
            return True
        entries = self._entries.names()
        if entries:  # mostly nobody waits, and each publisher asks, with the lock held
            names = (name for name in entries if name.startswith(f"{queue}="))
            self._usual[queue] = next(filter(self._reached, names), "")
        return self._callee >= 0

    def call(self, note: bytes) -> bool:
        """Wake whom was reached, for what the note says; say whether that is possible.

        To wake up, and to read the note, takes an idle process as long as the disk takes for a
        commit: so it is called before that, and told afterwards (benchmarks: `latency`).
        """
        try:
            os.write(self._callee, CALLED + len(note).to_bytes(2) + note)
        except OSError:
            os.close(self._callee)  # it is full of rings, so it has other things to do; or closed
            self._callee = -1
        return self._callee >= 0

    def tell(self, *, is_handed: bool) -> bool:
        """Tell whom was called that it has what it was called for, or to look.

        Say whether it is there.

        To be done before anybody else gets the lock: so whoever has it knows that all are told.
        """
        if self._callee < 0:
            return False
        callee, self._callee = self._callee, -1
        try:
            os.write(callee, HANDED if is_handed else RUNG)
        except OSError:
            return False
        finally:
            os.close(callee)
        return True

    def await_ends(self, ids: Iterable[bytes]) -> bool:
        """Ask to be rung when one of `ids` ends, and no other; say whether any of them is new."""
        return self._fd >= 0 and self._awaited.ask(ids, self._hang_up_if_gone)

    def ring_ends(self, ended: Iterable[bytes]) -> None:
        """Wake all who wait for one of these; `ended` is not read if nobody waits."""
        for waiter in self._awaited.of(ended):
            self._wake(waiter)

    def bury_dead(self) -> None:
        """Remove what dead processes left behind, of some waiters at a time.

        Whoever rings one removes it too, but nothing may be left that would ring for it, and every
        publisher reads the folder.
        """
        for listing in (self._entries, self._awaited.listing):
            listing.read_again()  # not each file is told of
        names: dict[str, list[str]] = {waiter: [] for waiter in self._awaited.listing.names()}
        for name in self._entries.names():
            waiter = SIGNS.split(name)[-1].removesuffix("~")
            names.setdefault(waiter, []).append(name)
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
        self.handed, self.called_for, self._is_called = [], b"", False

    def _hung_up(self) -> int:
        """Make the FIFO, and return a descriptor of it."""
        fifo.private_folder(self._folder)
        return fifo.made(self._path(self._name))

    def _hear(self, heard: bytes) -> None:
        """Take in what was written to the bell; all of a note is there, or nothing."""
        at = 0
        while at < len(heard):
            sign, at = heard[at : at + 1], at + 1
            self._is_called = sign == CALLED
            if sign == CALLED:
                end = at + 2 + int.from_bytes(heard[at : at + 2])
                self.called_for, at = heard[at + 2 : end], end
            elif sign == HANDED:
                # Its caller's: none may call before the last one has told, or has died.
                self.handed.append(self.called_for)
            else:
                self._is_rung = True

    def _take_back(self, queues: Iterable[str]) -> bool:
        """Take the wishes back; return whether one was taken by somebody who rings for it."""
        caught = False
        for queue in queues:
            if sign := self._asked.pop(queue, ""):
                caught = not self._unlinked(f"{queue}{sign}{self._name}") or caught
                # What is left of it, if we are called.
                self._unlinked(f"{queue}{OTHER[sign]}{self._name}")
        return caught

    def _unlinked(self, name: str) -> bool:
        try:
            os.unlink(self._path(name))
        except OSError:
            return False
        return True

    def _waiting(self) -> list[str]:
        """Return the entries of all who wait."""
        return [name for name in self._entries.names() if SIGNS.search(name)]

    def _ask(self, queue: str, sign: str) -> bool:
        """Ask in one way and no other; say whether it was not asked for before."""
        self._asked[queue] = sign
        entry = self._path(f"{queue}{sign}{self._name}")
        other = f"{queue}{OTHER[sign]}{self._name}"
        with contextlib.suppress(OSError):
            os.rename(self._path(other), entry)
            self._entries.changed()
            return False
        names = self._path(self._name), entry
        with contextlib.suppress(OSError):
            try:
                os.link(*names)
            except FileNotFoundError:
                self._hang_up_again()
                os.link(*names)
            # Who calls just now has made the other of the one that was there: with both, which are
            # one file, no rename would do anything any more.
            self._unlinked(other)
            self._entries.changed()
            return True
        return False

    def _hang_up_if_gone(self) -> None:
        if not os.path.exists(self._path(self._name)):
            self._hang_up_again()

    def _hang_up_again(self) -> None:
        """Make the FIFO anew: somebody cleared the folder away, and nobody could ring us."""
        fd = self._hung_up()
        self.drain()
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def _rung(self, entry: str) -> bool:
        queue, waiter = SIGNS.split(entry)
        self._entries.read_again()  # it is gone, in one way or the other
        # Opened first: where no descriptor is left, no wish must be taken that cannot be granted.
        if (fd := self._opened(waiter)) < 0:
            return False
        try:
            # Its owner may have changed the sign since the folder was read.
            taken = any(self._unlinked(f"{queue}{sign}{waiter}") for sign in "@=")
            return taken and self._written(fd)
        finally:
            os.close(fd)

    def _reached(self, entry: str) -> bool:
        queue, waiter = SIGNS.split(entry)
        self._entries.read_again()  # it is gone, in one way or the other
        try:
            os.rename(self._path(entry), self._path(f"{queue}@{waiter}"))
        except OSError:
            return False
        self._callee = self._opened(waiter)
        return self._callee >= 0

    def _wake(self, waiter: str) -> bool:
        if (fd := self._opened(waiter)) < 0:
            return False
        try:
            return self._written(fd)
        finally:
            os.close(fd)

    @staticmethod
    def _written(fd: int) -> bool:
        try:
            os.write(fd, RUNG)
        except BlockingIOError:
            return True  # full, so readable
        except OSError:
            return False
        return True

    def _opened(self, waiter: str) -> int:
        try:
            return os.open(self._path(waiter), os.O_WRONLY | fifo.OPEN)
        except OSError as error:
            if error.errno in NOBODY:
                self._bury(waiter)
        return -1

    def _is_dead(self, waiter: str) -> bool:
        try:
            if waiter.endswith(NEW):
                made = os.stat(self._path(waiter)).st_ctime
                return time.time() - made > NEW_SECONDS
            os.close(os.open(self._path(waiter), os.O_WRONLY | fifo.OPEN))
        except OSError as error:
            return error.errno in NOBODY
        return False

    def _bury(self, waiter: str) -> None:
        own = (waiter, f"{waiter}~")
        self._entries.read_again()
        names = [name for name in self._entries.names() if SIGNS.split(name)[-1] in own]
        self._remove(waiter, names)

    def _remove(self, waiter: str, names: Iterable[str]) -> None:
        self._awaited.remove(waiter)
        for path in map(self._path, names):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
