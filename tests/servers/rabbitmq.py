"""A RabbitMQ server of the tests' own, from the system's package.

Owns: its folder, its processes and their end: the server, and the port mapper without which Erlang
does not start. Both listen on loopback only, on ports that were free. The server refuses root: for
root it runs as the package's user.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.certificate import make_certificate
from tests.servers.ports import free_port
from tests.worker.workers import SECONDS, until

_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_CONFIG = "listeners.tcp.local = 127.0.0.1:{port}\nloopback_users = none\n"
_TLS = """\
listeners.ssl.local = 127.0.0.1:{port}
ssl_options.cacertfile = {certificate}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_none
"""
_START_SECONDS = 120.0
"""Seven on a machine that does nothing else, and a busy one takes its time."""
_HELLO = b"AMQP\0\0\x09\x01"


def programs() -> tuple[Path, str] | None:
    """Return the paths of the server and of `epmd`, or None where they are not installed."""
    epmd = shutil.which("epmd")
    return (_PROGRAM, epmd) if epmd and _PROGRAM.exists() else None


class Server:
    """A server that is started, stopped and killed as a test likes, with its data and its port."""

    def __init__(self, folder: Path, binaries: tuple[Path, str], *, tls: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self.tls_port = free_port() if tls else 0
        self._binary, epmd = binaries
        self._user = None if os.getuid() else "rabbitmq"
        mapper = free_port()
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        config = _CONFIG.format(port=self.port)
        if tls:
            self.certificate = made = make_certificate(folder, self._user)
            config += _TLS.format(port=self.tls_port, certificate=made.path, key=made.key)
        (folder / "rabbitmq.conf").write_text(config, encoding="utf-8")
        (folder / "plugins").write_text("[].\n", encoding="utf-8")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": f"dibs{self.port}@localhost",
            # Idle schedulers wait without a turn of the processor: the tests have use for it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        # In the foreground: as the daemon that the server would start it would outlive the tests.
        self._mapper = self._run([epmd, "-port", str(mapper), "-address", "127.0.0.1"])
        self._server: subprocess.Popen[bytes] | None = None

    def url(self, port: int | None = None) -> str:
        """Return the broker's address here, or by way of `port`."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/"

    def start(self) -> None:
        """Start the server, and wait until it speaks."""
        self._server = server = self._run([self._binary])
        until(lambda: self._speaks() or server.poll() is not None, "RabbitMQ is up", _START_SECONDS)
        assert server.poll() is None, (self.folder / "output").read_text(encoding="utf-8")

    def stop(self) -> None:
        """End the server in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once."""
        self._end(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the server's processes."""
        assert self._server is not None
        os.killpg(self._server.pid, number)

    def control(self, *command: str) -> None:
        """Have the server's own tool do something; that takes seconds."""
        tool = self._binary.with_name("rabbitmqctl")
        node = self._environment["RABBITMQ_NODENAME"]
        self._run([tool, "-n", node, *command]).wait(SECONDS)

    def close(self) -> None:
        """End what was started."""
        if self._server is not None:
            self.kill()
        self._mapper.kill()
        self._mapper.wait(SECONDS)

    def _end(self, number: int) -> None:
        assert self._server is not None
        self.signal(number)
        self._server.wait(SECONDS)
        self._server = None

    def _speaks(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as knock:
                knock.settimeout(1)
                knock.sendall(_HELLO)
                return knock.recv(1) == b"\x01"
        except OSError:
            return False

    def _run(self, command: list[str | Path]) -> "subprocess.Popen[bytes]":
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                user=self._user,
                group=self._user,
                cwd=self.folder,
                start_new_session=True,
            )


@contextmanager
def serving(
    binaries: tuple[Path, str], place: Path | None = None, *, tls: bool = False
) -> Iterator[Server]:
    """Start a server, and end it after; its data lies in a folder in `place`.

    By default that is in memory: what is thrown away need not reach a disk first. With `tls` it
    listens on a second port, where it speaks that.
    """
    memory = Path("/dev/shm")
    if place is None and os.access(memory, os.W_OK):
        place = memory
    folder = Path(tempfile.mkdtemp(prefix="dibs-rabbitmq-", dir=place))
    server = Server(folder, binaries, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder)
