"""FIFOs that processes of one machine write to each other through, and their folders.

A FIFO has its name from the moment on that its owner has it open: one that nobody has open is of a
dead process. Must never: follow a symbolic link, or wait for who is not there.
Called by: the bells, and the group of publishers.
"""

import contextlib
import errno
import os
import select

OPEN = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
WHOLE_BYTES = select.PIPE_BUF
"""What is written comes whole up to so many bytes (POSIX)."""
NOBODY = (errno.ENXIO, errno.ENOENT)
"""What opening one to write to it says if nobody reads it: its owner is dead."""
NEW = "+"
"""Ends the name of one that its owner has not open yet, for some microseconds."""


def private_folder(folder: str) -> None:
    """Make a folder that nobody else may look into, whatever the umask, if it is not there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    os.chmod(folder, 0o700)


def made(path: str) -> int:
    """Make a FIFO; return a descriptor for both ways: without a writer it would never be empty."""
    new = path + NEW
    os.mkfifo(new)
    os.chmod(new, 0o600)
    fd = os.open(new, os.O_RDWR | OPEN)
    try:
        os.rename(new, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def wait(fd: int, milliseconds: float) -> None:
    """Wait until something is to be read, but no longer; of any number, unlike `select`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(milliseconds)
