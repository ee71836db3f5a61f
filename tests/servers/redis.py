"""A Redis server of the tests' own, from the system's package; or what DIBS_REDIS_SERVER names.

Owns: its folder, its port, its process and its end. With that variable the same tests run on
Valkey, or on another version.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from tests.servers.ports import free_port
from tests.worker.workers import SECONDS, until

INSTALL = "Redis is not installed: apt install redis-server (no service needed)"


def program() -> str | None:
    """Return the server's program, or None where there is none."""
    named = os.environ.get("DIBS_REDIS_SERVER")
    return named or shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """A server: as `tests.servers.Server` says."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, port: int | None = None) -> str:
        """Return the address of its broker in dibs."""
        return f"redis://127.0.0.1:{port or self.port}/0"

    def client(self) -> Redis:
        """Return a plain client."""
        return Redis(port=self.port)

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self._process is not None
        return self._process.pid

    def start(self, *file: str) -> None:
        """Start it, with a file of settings if there is one, and wait until it answers."""
        program_ = program()
        assert program_ is not None, INSTALL
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        durable = [] if file else ["--appendonly", "yes", "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program_, *file, *own, *durable, *self._settings],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, "Redis is up")

    def stop(self) -> None:
        """End it in order."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(SECONDS)

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(SECONDS)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with self.client() as client:
            try:
                return bool(client.ping())
            except NotThere:
                return False


@contextmanager
def serving(*settings: str) -> Iterator[RedisServer]:
    """Start a server, and stop it after."""
    server = RedisServer(Path(tempfile.mkdtemp(prefix="dibs-redis-")), *settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder)
