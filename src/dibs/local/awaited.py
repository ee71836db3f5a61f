"""Which ends each waiter waits for: `<db>-bells/ends/<waiter>` holds their ids.

They have a folder of their own because every acknowledgement looks there, and must not pay for the
workers that wait for work.
Owns: that folder, and the file of one waiter in it.
Must never: ring: that is the bells'. Called by: the bells.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from dibs.local.listing import Board, Listing


class Awaited:
    """The ends that one waiter waits for, and a look at everybody else's."""

    def __init__(self, folder: str, waiter: str, board: Board) -> None:
        self._unseen = f"{folder}/{waiter}~"
        self._folder = f"{folder}/ends"
        self._waiter = waiter
        self._asked: frozenset[bytes] = frozenset()
        self.listing = Listing(self._folder, board, "ends")

    def ask(self, ids: Iterable[bytes], hang_up: Callable[[], object]) -> bool:
        """Wait for the ends of `ids`, and no others; say whether any of them is new.

        `hang_up` sees to it that there is a bell, before others read what it is to be rung for.
        """
        wanted = frozenset(ids)
        if self._asked and not os.path.exists(self._path(self._waiter)):
            self._asked = frozenset()  # somebody cleared the folder away
        if wanted == self._asked:
            return False
        new, self._asked = not wanted <= self._asked, wanted
        try:
            if wanted:
                hang_up()
                self._write(b"".join(wanted))
            else:
                os.unlink(self._path(self._waiter))
        except OSError:
            self._asked = frozenset()  # to be tried again the next time
        return new

    def of(self, ended: Iterable[bytes]) -> Iterator[str]:
        """Yield all who wait for one of these; `ended` is not read if nobody waits."""
        if waiters := self.listing.names():
            over = frozenset(ended)
            yield from (waiter for waiter in waiters if self._awaits_any(waiter, over))

    def remove(self, waiter: str) -> None:
        """Forget what a waiter waits for."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(waiter))

    def _awaits_any(self, waiter: str, ended: frozenset[bytes]) -> bool:
        try:
            with open(self._path(waiter), "rb") as file:
                ids = file.read()
        except OSError:
            self.listing.read_again()
            return False
        return any(ids[at : at + 16] in ended for at in range(0, len(ids), 16))

    def _write(self, ids: bytes) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._unseen, flags, 0o600)
        try:
            os.write(fd, ids)
        finally:
            os.close(fd)
        os.replace(self._unseen, self._path(self._waiter))  # whole or not at all
        self.listing.changed()

    def _path(self, waiter: str) -> str:
        return f"{self._folder}/{waiter}"
