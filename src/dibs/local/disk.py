"""Room on the disk, what kind of disk it is, and why a file on it cannot be had.

Owns the file `<db>-reserve`. Must never: follow a symbolic link put in a side file's place.
Called by: brokers that are files.
"""

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path

from dibs.errors import BrokerError, BrokerFull, BrokerUnavailable

REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "fuse.sshfs"}
IN_MEMORY = {"tmpfs", "ramfs"}
RESERVE_BYTES = 8 << 20
FULL = {errno.ENOSPC, errno.EDQUOT}
_WHY = {
    errno.ENOENT: "no file can be made there: name one in another folder",
    errno.ELOOP: "it is a symbolic link that is not to be followed: remove it",
    errno.EISDIR: "it is a folder where a file must be: remove it",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter one",
    errno.EMFILE: "this process has too many files open: raise its limit (`ulimit -n`)",
    errno.ENFILE: "this machine has too many files open: raise its limit",
}


def beside(path: Path, suffix: str) -> Path:
    """Return the side file of `path`."""
    return path.with_name(path.name + suffix)


def open_private(path: Path, flags: int = 0) -> int:
    """Open a side file for reading and writing, 0600 whatever the umask."""
    wanted = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags
    fd = os.open(path, wanted, 0o600)
    try:
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_private(path: Path) -> None:
    """Take the rights of others to a file away, if there is one and it is ours; give none."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and mode & ~0o600:
            os.chmod(path, mode & 0o600)


def full(name: object) -> BrokerFull:
    """Say that there is no room for `name`, what still works, and the way out."""
    return BrokerFull(
        f"{name}: no room left on the disk, so nothing new is stored. What is stored is safe, and"
        " workers go on with it (`dibs worker --drain`), which makes room. Free some, and try again"
    )


def unusable(path: Path, error: OSError) -> BrokerError:
    """Say why the file at `path`, or the one that the error names, could not be opened or made."""
    name = error.filename or path
    if error.errno in FULL:
        return full(name)
    why = _WHY.get(error.errno or 0, f"{error.strerror}: mend it, or name another file")
    if error.errno in (errno.EACCES, errno.EPERM):
        way = "change the owner or mode of the queue file and of those beside it"
        why = f"{user()} may not read and write it: {way}"
    return BrokerUnavailable(f"{name}: {why}")


def user() -> str:
    """Say who this process is, for a person who has to let it in."""
    return f"this user (uid {os.geteuid()})"


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that `folder` is on, "" where nobody can tell."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            fields, _, kind = line.partition(" - ")
            if fields.split()[2] == wanted:
                return kind.split()[0]
    return ""


class Reserve:
    """Disk space set aside, so that work in progress can be finished when the disk is full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def keep(self) -> None:
        """Set the space aside again if it was spent, or raise `BrokerFull`."""
        try:
            # Not by its name: each publish looks, and that would take twice as long.
            found = os.fstat(self._fd) if self._fd >= 0 else None
            if not found or not found.st_nlink:  # somebody may have cleared it away
                self.drop()
                self._fd = open_private(self._path)
                found = os.fstat(self._fd)
            if found.st_size != RESERVE_BYTES:
                self._allocate()
        except OSError as error:
            # What was allocated before it ran out is what the jobs in progress need.
            self.spend()
            raise unusable(self._path, error) from error

    def spend(self) -> None:
        """Give the space to whoever needs it now."""
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                os.truncate(self._fd, 0)  # its name may be gone
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.close(fd)

    def drop(self) -> None:
        """Close the descriptor and nothing else."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _allocate(self) -> None:
        if sys.platform == "darwin":
            os.pwrite(self._fd, bytes(RESERVE_BYTES), 0)
        else:
            os.posix_fallocate(self._fd, 0, RESERVE_BYTES)
