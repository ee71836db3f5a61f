"""A PostgreSQL server of the tests' own, from the system's package.

Owns: its folder, its process and its end. It listens on a socket in that folder only, so it needs
no free port and nobody else can reach it. `initdb` and `postgres` refuse root: for root they run as
the package's user.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg

from tests.worker.workers import SECONDS, until

READY = b"database system is ready to accept"  # of a standby: "read-only connections"
_names = count()


def programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`, or None where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class Server:
    """A running server, and databases in it. It can be stopped, started again, and paused."""

    def __init__(self, folder: Path, command: list[str], user: str | None) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._command = command
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process that the others descend from."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        seen = len(self.log.read_bytes()) if self.log.exists() else 0
        with self.log.open("ab") as output:
            process = self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                user=self._user,
                cwd=self.folder,
                start_new_session=True,
            )
        until(
            lambda: READY in self.log.read_bytes()[seen:] or process.poll() is not None,
            "PostgreSQL is up",
        )
        assert process.poll() is None, self.log.read_text()

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT ends what is under way, SIGQUIT is a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(SECONDS)

    def become_standby(self) -> None:
        """Start it again as one: it waits for a primary's log, and is read only."""
        self.stop()
        (self.folder / "data/standby.signal").touch()
        self.start()

    def pause(self, how: int = signal.SIGSTOP) -> None:
        """Stop all of its processes where they are, or let them go on (SIGCONT)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            with suppress(ProcessLookupError):  # a connection's own, which ended meanwhile
                os.kill(pid, how)

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
def serving(binaries: Path, *settings: str) -> Iterator[Server]:
    """Start a server, and stop it after. It syncs no file, unless `settings` say so."""
    folder = Path(tempfile.mkdtemp(prefix="dibs-pg-"))
    user = None if os.getuid() else "postgres"
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"
    how = ("-U", "dibs", "--auth=trust", "-E", "UTF8", "-N")
    initdb = [str(binaries / "initdb"), "-D", str(data), *how]
    subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
    asked = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", *settings)
    options = [part for setting in asked for part in ("-c", setting)]
    server = Server(folder, [str(binaries / "postgres"), "-D", str(data), *options], user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def stop_the_clock(connection: psycopg.Connection, schema: str, at_ms: int) -> None:
    """Give the store in a schema a clock that stands still: the only row of `test_time`."""
    connection.execute(f"CREATE TABLE {schema}.test_time AS SELECT {at_ms} AS ms".encode())
    connection.execute(
        f"CREATE OR REPLACE FUNCTION {schema}.now_ms() RETURNS bigint LANGUAGE sql"
        f" AS 'SELECT ms FROM {schema}.test_time'".encode()
    )
