"""A PgBouncer of the tests' own, in transaction mode, in front of one of their PostgreSQL servers.

Owns: its folder, its process and its end. It listens on a socket in that folder only, and refuses
root: for root it runs as PostgreSQL's user.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.postgres import Server
from tests.worker.workers import SECONDS, until

POOLED = 3
"""So many connections to the server are shared by all: fewer than a test opens."""
_PORT = 6432
_SETTINGS = """
[databases]
postgres = host={server} dbname=postgres user=dibs
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {pooled}
"""


def program() -> str | None:
    """Return where PgBouncer is, or None where there is none."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pooling(program: str, server: Server, *more: str) -> Iterator[str]:
    """Start one in front of `server`; yield the URL of its database through it, and end it.

    `more` are lines of its settings.
    """
    folder = Path(tempfile.mkdtemp(prefix="dibs-pgb-"))
    user = None if os.getuid() else "postgres"
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    settings = folder / "pgbouncer.ini"
    text = _SETTINGS.format(server=server.folder, folder=folder, port=_PORT, pooled=POOLED)
    text += "\n".join(more)
    settings.write_text(text)
    settings.chmod(0o644)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, str(settings)], stdout=output, stderr=output, user=user, cwd=folder
        )
    try:
        until(lambda: _listens(folder) or process.poll() is not None, "PgBouncer is up")
        assert process.poll() is None, log.read_text()
        yield f"postgresql://dibs@/postgres?host={folder}&port={_PORT}"
    finally:
        process.kill()  # a newer one waits for its clients when it is asked
        process.wait(SECONDS)
        shutil.rmtree(folder)


def _listens(folder: Path) -> bool:
    """Whether somebody listens there. Its file is not enough: it is made a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(folder / f".s.PGSQL.{_PORT}")) == 0
