"""The places where publishers of one file leave a note for the first in line, and are answered.

Owns the folder `<db>-group`: of each publisher a FIFO `<name>` in which it leaves a note, and one
`<name>-answers` in which it is answered; and `lead`, whose flock the first in line has. A note is
left before the lead is tried for, and the leader collects after it has given the lead up: so a note
is collected by whoever had the lead, or its owner gets the lead. To read a note is to take it: the
kernel gives it to one reader, to a leader, or to its owner who takes it back.
Must never: know what is in a note, or take one that it could not answer. Called by: `Together`.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dibs.local import disk, fifo
from dibs.local.fifo import NEW, NOBODY
from dibs.local.fork import drop_in_child
from dibs.local.listing import Board, Listing

NOTE_BYTES = fifo.WHOLE_BYTES
TICKET_BYTES = 8
LEAD, ANSWERS = "lead", "-answers"

Whom = bytes
"""Who is to be answered, and its ticket: it may have given up, and left another note since."""
WHOM_BYTES = 16


class Group:
    """One publisher's place."""

    def __init__(self, folder: Path, board: Board) -> None:
        self._folder = str(folder)
        self._members = Listing(self._folder, board, "group")
        self._name = ""
        self._notes = self._answers = self._lead = -1
        self._others: dict[str, int] = {}
        """Descriptors of the others' FIFOs: to open one takes as long as to read a few."""
        self._ticket = 0

    @property
    def whom(self) -> Whom:
        """Who this one is, with the ticket of its last note."""
        return bytes.fromhex(self._name) + self._ticket.to_bytes(TICKET_BYTES)

    def leave(self, note: bytes) -> bool:
        """Leave a note to be collected; say whether it is left: it may be too long."""
        if len(note) > NOTE_BYTES - TICKET_BYTES:
            return False
        try:
            if self._lead < 0 or not os.path.exists(self._path(self._name)):
                self.drop()  # nobody would find it, if somebody cleared the folder away
                self._join()
            self._ticket += 1
            os.write(self._notes, self._ticket.to_bytes(TICKET_BYTES) + note)
        except OSError:
            return False
        return True

    def take_back(self) -> bool:
        """Take the note back; say whether nobody had collected it."""
        return bool(_read(self._notes))

    def leads(self) -> bool:
        """Take the lead; say whether nobody else has it."""
        try:
            fcntl.flock(self._lead, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lead_no_more(self) -> None:
        """Give the lead up, if it is had."""
        fcntl.flock(self._lead, fcntl.LOCK_UN)

    def mark(self) -> None:
        """Note, with the lock held, that somebody will have to be answered.

        Raises:
            BrokerError: it cannot be noted.
        """
        try:
            os.pwrite(self._lead, b"1", 0)
        except OSError as error:
            raise disk.unusable(Path(self._path(LEAD)), error) from error

    def unmark(self) -> None:
        """Note, with the lock held, that all are answered; else they are once more, in vain."""
        with contextlib.suppress(OSError):
            os.pwrite(self._lead, b"0", 0)

    def is_marked(self) -> bool:
        """Say whether somebody was to be answered by one who had the lock before."""
        return os.pread(self._lead, 1, 0) == b"1"

    def collect(self) -> Iterator[tuple[Whom, bytes]]:
        """Take the others' notes, each with whom to answer; those of the dead are buried."""
        names = self._members.names()
        for gone in self._others.keys() - names:
            os.close(self._others.pop(gone))
        for name in names:
            if name in (self._name, LEAD) or name.endswith((ANSWERS, NEW)):
                continue
            try:
                self._opened(name + ANSWERS, os.O_WRONLY)  # first: whom it could not answer,
                note = _read(self._opened(name, os.O_RDONLY))  # it must not take a note from
            except OSError as error:
                if error.errno in NOBODY:
                    self._bury(name)
                continue
            if note:
                yield bytes.fromhex(name) + note[:TICKET_BYTES], note[TICKET_BYTES:]
            elif note is not None:
                self._bury(name)

    def answer(self, whom: Whom, answer: bytes) -> None:
        """Answer a note; nobody is there to be answered if its owner died.

        Raises:
            BrokerError: its FIFO cannot be opened, which `collect` has open.
        """
        name, ticket = whom[:-TICKET_BYTES].hex(), whom[-TICKET_BYTES:]
        try:
            fd = self._opened(name + ANSWERS, os.O_WRONLY)
            os.write(fd, ticket + len(answer).to_bytes(1) + answer)
        except OSError as error:
            if error.errno not in (*NOBODY, errno.EPIPE):
                raise disk.unusable(Path(self._path(name)), error) from error

    def wait(self, seconds: float) -> bytes | None:
        """Return the answer to the last note; None if there is none within `seconds`."""
        fifo.wait(self._answers, seconds * 1_000)
        heard, at = _read(self._answers) or b"", 0
        answer = None
        while at < len(heard):
            ticket, begin = heard[at : at + TICKET_BYTES], at + TICKET_BYTES + 1
            at = begin + heard[begin - 1]
            if ticket == self._ticket.to_bytes(TICKET_BYTES):
                answer = heard[begin:at]
        return answer

    def close(self) -> None:
        """Leave the group."""
        if self._lead >= 0:
            self._bury(self._name)
            self._members.changed()
        self.drop()

    def drop(self) -> None:
        """Close the descriptors and nothing else: what a forked child does with its copies."""
        fds = [self._notes, self._answers, self._lead, *self._others.values()]
        self._notes = self._answers = self._lead = -1
        self._others = {}
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def _join(self) -> None:
        fifo.private_folder(self._folder)
        drop_in_child(self)
        # A new one each time: others may have the FIFOs open that had the last one.
        self._name = os.urandom(WHOM_BYTES - TICKET_BYTES).hex()
        try:
            self._answers = fifo.made(self._path(self._name + ANSWERS))
            self._notes = fifo.made(self._path(self._name))
            self._lead = disk.open_private(Path(self._path(LEAD)))
            self._members.changed()
        except OSError:
            self._bury(self._name)
            self.drop()
            raise

    def _opened(self, name: str, flags: int) -> int:
        if name not in self._others:
            self._others[name] = os.open(self._path(name), flags | fifo.OPEN)
        return self._others[name]

    def _bury(self, name: str) -> None:
        self._members.read_again()
        for each in (name, name + ANSWERS, name + NEW, name + ANSWERS + NEW):
            with contextlib.suppress(OSError):
                os.unlink(self._path(each))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


def _read(fd: int) -> bytes | None:
    """Return what is in a FIFO, b"" if nobody has it open any more, None if it is empty."""
    try:
        return os.read(fd, 2 * NOTE_BYTES)
    except BlockingIOError:
        return None
