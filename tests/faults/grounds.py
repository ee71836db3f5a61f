"""The brokers to which the faults are done, and what each looks like on the wire.

Owns: the list of grounds: a server, how its settlements and publishes are recognised, and what is
asked of it.
Must never: open a broker, or know what is done to one.
Called by: `scenarios.py` and the field, which do the harm; and whoever picks brokers by name.
"""

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec import Struct

from tests.faults.wire import ACK, PUBLISH, Recognise, amqp, bound, holds, nothing, sqs_action
from tests.servers import Server
from tests.servers.missing import not_installed
from tests.servers.ports import free_port

AWAY_SECONDS = 1.0


class Ground(Struct, frozen=True):
    """One broker. `serving` starts its server, in a folder, and ends it.

    `settles` and `publishes` recognise a request in a client's bytes, `confirms` the answer to a
    publish in the server's. `network` says whether there is one to put a proxy into.
    `lease_seconds` is the visibility timeout of the jobs. `dedupes`: an id is one message, so a
    job whose publish was tried again is still one (G2); where that is not so, it may run twice.
    `jobs` is how many are under way in the full run. `hidden_seconds` is how long what was granted
    stays hidden if the grant did not arrive, where that is not the visibility timeout. `ends`: its
    server keeps what it has when it is ended; one that does not is stopped for a while instead.
    """

    serving: Callable[[Path], AbstractContextManager[Server]]
    settles: Recognise = nothing
    publishes: Recognise = nothing
    confirms: Recognise = bool
    network: bool = True
    lease_seconds: float = 1.0
    dedupes: bool = True
    jobs: int = 20_000
    hidden_seconds: float = 0.0
    ends: bool = True


def sqlite() -> Ground:
    """The embedded broker."""
    return Ground(queue_file, network=False)


def redis() -> Ground:
    """Each verb is a script, called by its digest."""
    from dibs.brokers.redis import broker
    from dibs.wires.resp.link import scripts_in

    scripts = scripts_in(broker.FOLDER, broker.NOW, broker.COMMON)
    return Ground(
        redis_server,
        settles=holds(scripts["settle"].sha.encode()),
        publishes=holds(scripts["publish"].sha.encode()),
    )


def postgres() -> Ground:
    """Each verb is a function, called by a prepared statement of its name."""
    return Ground(postgres_server, settles=bound("acknowledge"), publishes=bound("publish"))


def rabbitmq() -> Ground:
    """Publishes are confirmed by an ack of the server's; ids are not looked at."""
    return Ground(
        rabbitmq_server,
        settles=amqp(ACK),
        publishes=amqp(PUBLISH),
        confirms=amqp(ACK),
        lease_seconds=2.0,
        dedupes=False,
    )


def sqs() -> Ground:
    """Batches of ten over HTTP; ids are not looked at."""
    from dibs.wires.aws.receives import POLLED_SECONDS

    return Ground(
        sqs_server,
        settles=sqs_action("DeleteMessageBatch"),
        publishes=sqs_action("SendMessageBatch"),
        lease_seconds=2.0,
        dedupes=False,
        jobs=1_000,
        hidden_seconds=POLLED_SECONDS,
        ends=False,
    )


ALL = (sqlite, redis, postgres, rabbitmq, sqs)


def grounds() -> dict[str, Ground]:
    """Return those whose adapter is there, by its name."""
    names = {make.__name__: make for make in ALL}
    return {name: make() for name, make in names.items() if find_spec(f"dibs.brokers.{name}")}


# Their servers


class QueueFile:
    """SQLite, which has no server that could be ended, and no network."""

    port = 0

    def __init__(self, folder: Path) -> None:
        self._path = folder / "queue.db"

    def url(self, port: int | None = None) -> str:
        """Return the file."""
        del port
        return f"sqlite:///{self._path}"

    def start(self) -> None:
        """Be there."""

    stop = kill = start


@contextmanager
def queue_file(folder: Path) -> Iterator[Server]:
    """A queue file in a folder."""
    yield QueueFile(folder)


@contextmanager
def redis_server(folder: Path) -> Iterator[Server]:
    """Redis with a sync before each answer.

    By default it answers before it writes while a sync is under way, which may take long beside
    others: killed in that moment it does not know what it granted (docs/redis.md).
    """
    from tests.servers import redis as servers

    del folder
    if servers.program() is None:
        not_installed("Redis", "redis-server")
    with servers.serving("--appendfsync", "always") as server:
        yield server


class Postgres:
    """A PostgreSQL server on a port."""

    def __init__(self, port: int) -> None:
        from tests.servers import postgres as servers

        self.port = port
        self.running: servers.Server | None = None

    def url(self, port: int | None = None) -> str:
        """Return the address of its broker."""
        return f"postgresql://dibs@127.0.0.1:{port or self.port}/postgres?sslmode=disable"

    def start(self) -> None:
        """Start it."""
        assert self.running is not None
        self.running.start()

    def stop(self) -> None:
        """End what is under way, and stop."""
        assert self.running is not None
        self.running.stop()

    def kill(self) -> None:
        """Crash: the next start recovers from the log."""
        assert self.running is not None
        self.running.stop(signal.SIGQUIT)


@contextmanager
def postgres_server(folder: Path) -> Iterator[Server]:
    """PostgreSQL, with fsync: what is asked of it is durable."""
    from tests.servers import postgres as servers

    del folder
    binaries = servers.programs()
    if binaries is None:
        not_installed("PostgreSQL", "postgresql")
    server = Postgres(free_port())
    listening = ("listen_addresses=127.0.0.1", f"port={server.port}", "fsync=on")
    with servers.serving(binaries, *listening) as server.running:
        yield server


@contextmanager
def rabbitmq_server(folder: Path) -> Iterator[Server]:
    """RabbitMQ, one node."""
    from tests.servers import rabbitmq as servers

    del folder
    programs = servers.programs()
    if programs is None:
        not_installed("RabbitMQ", "rabbitmq-server")
    with servers.serving(programs) as server:
        yield server


class Sqs:
    """A server that speaks SQS.

    It would forget all at its end, as SQS does not. So it is stopped instead, and whoever calls
    meanwhile waits.
    """

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._pid = pid

    def url(self, port: int | None = None) -> str:
        """Return the address of its broker."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        return f"sqs://eu-west-1/faults-?endpoint={endpoint}"

    def start(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it, for longer than a call may take to be answered at once."""
        os.kill(self._pid, signal.SIGSTOP)
        select.select([], [], [], AWAY_SECONDS)

    kill = stop


@contextmanager
def sqs_server(folder: Path) -> Iterator[Server]:
    """A server that speaks SQS, and whoever asks it is let in."""
    from tests.servers import sqs as servers

    del folder
    with servers.serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in servers.KEYS.items():
            patch.setenv(name, value)
        yield Sqs(server.port, server.process.pid)
