"""The names in folders, for those who look at them all the time.

Whoever adds a name says so on a board, a small file that all who look have mapped. Every publisher
looks twice, and mostly there is nothing new: to see that is a read of memory, where the time of a
folder's last change would be a system call, and a tick behind (benchmarks: `enqueue`).
Owns: the file `<db>-board`. Must never: miss a name that was added, and said, before the look.
Called by: the bells, and the group of publishers.
"""

import contextlib
import mmap
import os
from pathlib import Path

from dibs.local import disk
from dibs.local.fork import drop_in_child

PLACES = ("bells", "ends", "group")
WIDTH = 8
BYTES = WIDTH * len(PLACES)


class Board:
    """A place for each folder, with a value that is another one after each change."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = disk.open_private(path)
            try:
                self.page: mmap.mmap | bytes = self._mapped()
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise disk.unusable(path, error) from error
        drop_in_child(self)

    def say(self, place: str) -> None:
        """Say that the folder of `place` has changed: after the change."""
        with contextlib.suppress(OSError):  # the disk may be full
            os.pwrite(self._fd, os.urandom(WIDTH), WIDTH * PLACES.index(place))

    def close(self) -> None:
        """Close the file and what is mapped of it; a look after that finds nothing new."""
        page, self.page = self.page, bytes(BYTES)
        if isinstance(page, mmap.mmap):
            page.close()
        self.drop()

    def drop(self) -> None:
        """Close the descriptor and nothing else: what a forked child does with its copy."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _mapped(self) -> mmap.mmap | bytes:
        try:
            if os.fstat(self._fd).st_size <= BYTES:
                # A byte behind the places, so that nothing is lost that was said just now. A hole
                # would have no room on a full disk, and whoever reads it there is killed.
                os.pwrite(self._fd, b"\0", BYTES)
        except OSError as error:
            if error.errno in disk.FULL:
                return bytes(BYTES)  # who waits is not heard of, and looks each second
            raise
        return mmap.mmap(self._fd, BYTES, access=mmap.ACCESS_READ)


class Listing:
    """The names in a folder, read again after somebody said that it has changed.

    A name may be gone by now: who finds one so has the folder read again.
    """

    def __init__(self, folder: str, board: Board, place: str) -> None:
        self._folder = folder
        self._board = board
        self._place = place
        at = WIDTH * PLACES.index(place)
        self._part = slice(at, at + WIDTH)
        self._seen = b""
        self._names: list[str] = []

    def names(self) -> list[str]:
        """Return them; none, if there is no such folder."""
        said = self._board.page[self._part]
        if said != self._seen:
            try:
                self._names = os.listdir(self._folder)
            except FileNotFoundError:
                self._names = []
            except OSError:
                return []  # there may be no descriptor left: the next look tries again
            self._seen = said  # of before the names were read: what is added since is said since
        return self._names

    def are_old(self) -> bool:
        """Say whether the folder would have to be read."""
        return self._board.page[self._part] != self._seen

    def read_again(self) -> None:
        """Have the folder read by the next look: a name in it is gone."""
        self._seen = b""

    def changed(self) -> None:
        """Have everybody read it anew."""
        self._board.say(self._place)
