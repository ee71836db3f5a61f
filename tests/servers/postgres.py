"""A PostgreSQL server of the tests' own, from the system's package.

Owns: its folder, its process and its end. It listens on a socket in that folder only, so it needs
no free port and nobody else can reach it. `initdb` and `postgres` refuse root: for root they run as
the package's user.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from tests.worker.workers import SECONDS, until

READY = b"database system is ready to accept connections"
_names = count()


def programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`, or None where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class Server:
    """A running server, and databases in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, database: str) -> str:
        """Return the address of a database, as every driver reads it."""
        return f"postgresql://dibs@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Make a database; return its name."""
        name = f"shop_{next(_names)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name


@contextmanager
def serving(binaries: Path) -> Iterator[Server]:
    """Start a server, and stop it after."""
    folder = Path(tempfile.mkdtemp(prefix="dibs-pg-"))
    user = None if os.getuid() else "postgres"
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data, log = folder / "data", folder / "log"
    initdb = [binaries / "initdb", "-D", data, "-U", "dibs", "--auth=trust", "-E", "UTF8", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
    settings = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off")
    options = [part for setting in settings for part in ("-c", setting)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options],
            stdout=output,
            stderr=output,
            user=user,
            cwd=folder,
            start_new_session=True,
        )
    try:
        until(lambda: READY in log.read_bytes() or process.poll() is not None, "PostgreSQL is up")
        assert process.poll() is None, log.read_text()
        yield Server(folder)
    finally:
        process.terminate()  # with a grace: what tests left connected may be in a transaction
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.send_signal(3)  # SIGQUIT: at once
            process.wait(SECONDS)
        shutil.rmtree(folder)
