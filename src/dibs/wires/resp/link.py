"""One connection to the server: opened when it is needed, and every call on it bounded.

Owns: the socket, the scripts that are run through it, and what the server's errors mean to callers.
Must never: use a connection again on which an answer is missing.
Called by: the Redis broker, its inspector and its bell, by one thread at a time.

redis-py opens the connection: it knows addresses, TLS, credentials and sentinels. What is said on
it then goes past redis-py, since a deadline for a whole answer is more than a time-out per read.
"""

import hashlib
import socket
import ssl
from collections.abc import Iterator, Mapping
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import hiredis
from msgspec import Struct
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from dibs.clock import Clock
from dibs.errors import BrokerBusy, BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable
from dibs.wires.limit import Limit
from dibs.wires.resp.address import Address, Connecting

READ_BYTES = 1 << 16
KINDS: dict[str, type[BrokerError]] = {
    "OOM": BrokerFull,
    "BUSY": BrokerBusy,
    **dict.fromkeys(("LOADING", "MASTERDOWN", "READONLY"), BrokerUnavailable),
    **dict.fromkeys(("MISCONF", "NOREPLICAS"), BrokerUnavailable),
    **dict.fromkeys(("NOAUTH", "WRONGPASS"), BrokerUnavailable),
    "NOPERM": BrokerRefused,
}
"""What a kind of the server's errors is to a caller; none of them leaves anything half done."""

_socket_of = attrgetter("_sock")  # redis-py hands it out no other way


def _say_nothing(connection: object) -> None:
    """Stand in for what redis-py would say on a new connection."""
    del connection


class NoAnswer(BrokerUnavailable):
    """The request left and its answer did not come: it may or may not have taken effect."""


class Script(Struct, frozen=True):
    """A script, and the name by which a server that has it knows it."""

    text: str
    sha: str


@cache
def scripts_in(folder: Path, *before: str) -> dict[str, Script]:
    """Return the scripts of a folder, those with a line of flags, by their names.

    The texts `before` are put before each: what they have in common.
    """
    found: dict[str, Script] = {}
    for path in sorted(folder.glob("*.lua")):
        flags, _, body = path.read_text().partition("\n")
        if flags.startswith("#!"):
            text = "\n".join((flags, *before, body))
            found[path.stem] = Script(text, hashlib.sha1(text.encode()).hexdigest())
    return found


class Link:
    """The connection. `namespace` is what every key begins with."""

    def __init__(
        self,
        address: Address,
        namespace: str,
        clock: Clock,
        scripts: Mapping[str, Script],
        limit: Limit,
    ) -> None:
        self.address = address
        self.namespace = namespace
        self._clock = clock
        self._scripts = scripts
        self.limit = limit
        self._connection: Connecting | None = None
        self._reader = hiredis.Reader()

    def another(self) -> "Link":
        """Return a second one to the same server, under the same limit."""
        return Link(self.address, self.namespace, self._clock, self._scripts, self.limit)

    def run(self, verb: str, *arguments: Any) -> Any:
        """Run a script.

        Raises:
            NoAnswer: it may or may not have run.
            BrokerError: it did not.
        """
        script = self._scripts[verb]
        asked = (b"EVALSHA", script.sha, 1, self.namespace, *arguments)
        answer = self._answer(asked)
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
            self.call("SCRIPT", "LOAD", script.text)  # a new server, or somebody flushed them
            answer = self._answer(asked)
        return self._told(answer)

    def call(self, *command: Any) -> Any:
        """Run a command; raises as `run` does."""
        return self._told(self._answer(command))

    def socket(self) -> socket.socket:
        """Return the socket of the connection that the last call left open."""
        found = _socket_of(self._connection)
        assert isinstance(found, socket.socket)
        return found

    def way(self) -> tuple[str, bool | None]:
        """Return the host that the last call reached, and whether TLS verified it (None: no TLS).

        The host is "" for a socket in the file system.
        """
        stream = self.socket()
        verified = stream.context.check_hostname if isinstance(stream, ssl.SSLSocket) else None
        return getattr(self._connection, "host", None) or "", verified

    def pushes(self) -> Iterator[Any]:
        """Yield what the server has sent by itself so far, on a socket that does not block.

        Raises:
            OSError: no more will come.
            hiredis.ProtocolError: it is no Redis server any more.
        """
        stream = self.socket()
        while True:
            while (push := self._reader.gets()) is not False:
                yield push
            try:
                received = stream.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)

    def close(self) -> None:
        """Give the connection up; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _answer(self, command: tuple[Any, ...]) -> Any:
        deadline = self.limit.until()
        try:
            if self._connection is None:
                self._open(deadline)
            return self._exchanged(command, deadline)
        except (OSError, hiredis.ProtocolError) as exc:
            self.close()
            raise NoAnswer(f"{self.address.shown}: no answer: {exc}") from exc
        except BaseException:
            self.close()  # cut short by a signal: what comes next would read this answer
            raise

    def _open(self, deadline: float) -> None:
        """Connect, and say who we are: by hand, since redis-py waits for each byte anew.

        Whoever calls closes what an exception left half way.
        """
        left = max(0.001, deadline - self._clock.monotonic())
        step = left / 3  # one for the connection, one for TLS, one for the rest
        own: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),  # whoever calls has the patience
            "retry_on_error": [],
            "retry_on_timeout": False,
            "health_check_interval": 0,
            "socket_connect_timeout": step,
            "socket_timeout": step,
            "redis_connect_func": _say_nothing,
        }
        connection = self.address.kind(**{**self.address.settings, **own})
        self._connection, self._reader = connection, hiredis.Reader()
        try:
            connection.connect()
            for command in self.address.greeting():
                answer = self._exchanged(command, deadline)
                if isinstance(answer, hiredis.ReplyError):
                    raise RedisError(answer)
        except (RedisError, OSError, hiredis.ProtocolError) as exc:
            raise BrokerUnavailable(f"{self.address.shown}: {exc}") from exc

    def _exchanged(self, command: tuple[Any, ...], deadline: float) -> Any:
        stream = _socket_of(self._connection)
        stream.settimeout(self._left(deadline))
        stream.sendall(hiredis.pack_command(command))
        while (answer := self._reader.gets()) is False:
            stream.settimeout(self._left(deadline))
            received = stream.recv(READ_BYTES)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)
        return answer

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took longer than {self.limit.seconds:.2g} s")
        return left

    def _told(self, answer: Any) -> Any:
        if not isinstance(answer, hiredis.ReplyError):
            return answer
        kind = str(answer).partition(" ")[0]
        if kind in ("READONLY", "MASTERDOWN"):
            self.close()  # the address may lead to another server by now
        way = ": give it the rights of docs/redis.md, Rights" if kind == "NOPERM" else ""
        raise KINDS.get(kind, BrokerError)(f"{self.address.shown}: {answer}{way}")
