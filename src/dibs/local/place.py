"""Where a queue file may lie, and what is said of a place where it cannot.

Must never: open the file (to close one that is open here would drop SQLite's locks), or make one.
Called by: `database`, before it opens a file.
"""

import errno
import os
import stat
from pathlib import Path

from dibs.errors import BrokerRefused, BrokerUnavailable
from dibs.local import disk


def checked(path: Path) -> Path:
    """Return the real path of a queue file that is there, or that can be made.

    Raises:
        BrokerUnavailable, BrokerRefused: it cannot be; the text names it and the way out.
    """
    real = Path(os.path.realpath(path))
    try:
        _check_folder(path, real)
        _check_file(real)
        if (kind := disk.file_system(real.parent)) in disk.REMOTE:
            raise BrokerRefused(f"{real} is on a network disk ({kind}): use a local one")
        _check_rights(real)
    except OSError as error:
        raise disk.unusable(real, error) from error
    return real


def _check_folder(asked: Path, path: Path) -> None:
    folder = path.parent
    try:
        mode = os.stat(folder).st_mode
    except (FileNotFoundError, NotADirectoryError):
        why = f"there is no folder {folder}: make it first"
        if asked.is_symlink():
            why = f"{asked} is a symbolic link, and {why}, or mend the link"
        raise BrokerUnavailable(why) from None
    except PermissionError:
        way = "change the owner or mode of the folders above it"
        raise BrokerUnavailable(f"{path}: {disk.user()} may not go there: {way}") from None
    if not stat.S_ISDIR(mode):
        raise BrokerUnavailable(f"{folder} is not a folder: name a file in one")


def _check_file(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, PermissionError):
        return  # it is to be made; or its folder may not be entered, which is said of the folder
    if stat.S_ISDIR(mode):
        raise BrokerUnavailable(f"{path} is a folder: name a file in it")
    if not stat.S_ISREG(mode):
        raise BrokerUnavailable(f"{path} is a device or a pipe: name a file")


def _check_rights(path: Path) -> None:
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise BrokerUnavailable(f"{path} is on a read-only disk: name a file on another")
    if not _may(path.parent, os.W_OK | os.X_OK):
        why = f"{disk.user()} may not make the files that it needs beside it"
        raise BrokerUnavailable(f"{path}: {why}: change the owner or mode of its folder")
    if path.exists() and not _may(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, "", str(path))


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
