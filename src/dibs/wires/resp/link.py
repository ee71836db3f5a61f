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
from redis.sentinel import MasterNotFoundError

from dibs.clock import Clock
from dibs.errors import BrokerBusy, BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable
from dibs.wires.keepalive import keep_alive
from dibs.wires.limit import Limit
from dibs.wires.resp.address import Address, Connecting

READ_BYTES = 1 << 16
CROWDED = "ERR max number of clients"
KINDS: dict[str, type[BrokerError]] = {
    CROWDED: BrokerUnavailable,
    "OOM": BrokerFull,
    "BUSY": BrokerBusy,
    **dict.fromkeys(("LOADING", "MASTERDOWN", "READONLY"), BrokerUnavailable),
    **dict.fromkeys(("MISCONF", "NOREPLICAS"), BrokerUnavailable),
    **dict.fromkeys(("NOAUTH", "WRONGPASS"), BrokerUnavailable),
    "NOPERM": BrokerRefused,
}
"""What the server's errors are to a caller, by how they begin; none leaves anything half done."""
LEAVE = ("READONLY", "MASTERDOWN", CROWDED)
"""Of those, what is said by a server that another may stand in for by now, or that hangs up."""

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
        deadline = self.limit.until()  # of all that follows
        answer = self._answer(asked, deadline)
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
            # a new server, or somebody flushed them
            self._told(self._answer(("SCRIPT", "LOAD", script.text), deadline))
            answer = self._answer(asked, deadline)
        return self._told(answer)

    def call(self, *command: Any) -> Any:
        """Run a command; raises as `run` does."""
        return self._told(self._answer(command, self.limit.until()))

    def info(self) -> dict[str, str]:
        """Ask what the server says of itself; raises as `run` does."""
        lines = self.call("INFO").decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def setting(self, name: str) -> str | None:
        """Ask for a setting; None where users must not, as on many a rented server."""
        try:
            answer = self.call("CONFIG", "GET", name)
        except BrokerError as exc:
            if "NOPERM" in str(exc) or "unknown command" in str(exc):
                return None
            raise
        return str(answer[1], "utf-8") if len(answer) == 2 else None

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

    def say(self, *command: Any) -> None:
        """Send what is answered among the pushes, on a socket that does not block.

        Raises:
            OSError: nobody takes it.
        """
        self.socket().send(hiredis.pack_command(command))

    def close(self) -> None:
        """Give the connection up; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _answer(self, command: tuple[Any, ...], deadline: float) -> Any:
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
        own: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),  # whoever calls has the patience
            "retry_on_error": [],
            "retry_on_timeout": False,
            "health_check_interval": 0,
            "redis_connect_func": _say_nothing,
        }
        try:
            known = self.address.how_many(self._left(deadline) / 3)
            step = self._left(deadline) / 3  # one for the connection, one for TLS, one for the rest
            own |= {"socket_connect_timeout": step / known, "socket_timeout": step}
            connection = self.address.kind(**{**self.address.settings, **own})
            self._connection, self._reader = connection, hiredis.Reader()
            connection.connect()
            keep_alive(self.socket())
            for command in self.address.greeting():
                answer = self._exchanged(command, deadline)
                if isinstance(answer, hiredis.ReplyError):
                    raise RedisError(answer)
        except MasterNotFoundError:
            # redis-py's own text has the passwords of the sentinels in it, before 7.4
            # (by test_b45_no_password_of_a_sentinel_is_ever_shown).
            raise BrokerUnavailable(f"{self.address.shown}: {self.address.no_primary}") from None
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
        text = str(answer)
        kind = next((kind for kind in KINDS if text.startswith(kind)), "")
        if kind in LEAVE:
            self.close()
        way = ": give it the rights of docs/redis.md, Rights" if kind == "NOPERM" else ""
        raise KINDS.get(kind, BrokerError)(f"{self.address.shown}: {text}{way}")
