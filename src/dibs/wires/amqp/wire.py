"""A connection that goes forward only while somebody steps it, with one channel.

Owns: the socket, the timers, and the limit of every wait.
Must never: wait past its limit, or be used again after a wait ran out: the next one is a new one.
Called by: `Press`, and the adapter.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pika.connection import Connection, Parameters
from pika.exceptions import AMQPError, StreamLostError
from pika.frame import decode_frame

from dibs.wires.amqp.frames import Reader, Take, published
from dibs.wires.keepalive import keep_alive
from dibs.wires.resolve import addresses

_READ_BYTES = 1 << 18
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TooLate(Exception):
    """A wait ran out: nobody knows what became of the request."""


class Blocked(Exception):
    """The server, out of memory or disk, reads nothing of this connection for now."""


class Limit:
    """How long a call may take, whatever number of waits it consists of."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        """A call begins."""
        self._end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Return the seconds that are left of it."""
        return self._end - time.monotonic()


class Wire(Connection):
    """One connection with its channel, open when it is made.

    `limit` bounds that, and every wait. A `Wire` that ended says `why`. While it is `blocked`, the
    server, out of memory or disk, reads nothing of it.

    Raises:
        OSError, AMQPError, TooLate: there is no such server, or it does not let us in.
    """

    def __init__(self, parameters: Parameters, limit: Limit, take: Take) -> None:
        self.limit = limit
        self.why: BaseException | None = None
        self.blocked = False
        self._unsent = bytearray()
        self._timers: dict[object, tuple[float, Callable[[], None]]] = {}
        self._reader = Reader(take, self._other)
        opened: list[object] = []
        super().__init__(parameters, opened.append, self._on_end, self._on_end)
        self.add_on_connection_blocked_callback(lambda *_: setattr(self, "blocked", True))
        self.add_on_connection_unblocked_callback(lambda *_: setattr(self, "blocked", False))
        self.wait(lambda: len(opened) == 1)
        self.line = self.channel(on_open_callback=opened.append)
        self.line.add_on_close_callback(self._on_end)
        self.wait(lambda: len(opened) == 2)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Make a request on the channel; return the server's answer to it.

        Raises:
            Blocked: there is none for now. The request may take effect later.
        """
        answers = self.begin(verb, **arguments)
        self.wait(lambda: self.blocked or bool(answers))
        if not answers:
            raise Blocked("the server is out of memory or disk")
        return answers[0].method

    def begin(self, verb: str, **arguments: Any) -> list[Any]:
        """Make a request on the channel; return where its answer will be."""
        answers: list[Any] = []
        getattr(self.line, verb)(**arguments, callback=answers.append)
        return answers

    def publish(self, exchange: str, key: str, properties: bytes, body: bytes) -> None:
        """Publish a message; it leaves with the next step, or when enough have come together."""
        self._unsent += published(exchange, key, properties, body, self._body_max_length)
        if len(self._unsent) > _READ_BYTES:
            self.step()

    def send(self, frames: bytes) -> None:
        """Send frames with the next step."""
        self._unsent += frames

    def wait(self, done: Callable[[], bool]) -> None:
        """Step until `done`.

        Raises:
            TooLate: it was not within the limit; the connection is given up.
            AMQPError: the connection or its channel has ended.
        """
        while not done():
            self.wait_for_more()

    def linger(self, until: float) -> None:
        """Hear the server until a moment of the monotonic clock.

        Raises:
            TooLate: the limit is over before. Nothing is waited for, so the connection stays.
            AMQPError: the connection or its channel has ended.
        """
        while (rest := until - time.monotonic()) > 0:
            if (left := self.limit.left()) <= 0:
                raise TooLate("a new queue is not written down yet")
            self.step(min(left, rest))

    def wait_for_more(self) -> None:
        """Step once, waiting for what comes next.

        Raises:
            TooLate: the limit is over, and the connection is given up.
            AMQPError: the connection or its channel has ended.
        """
        left = self.limit.left()
        if left <= 0:
            self.end(TooLate(f"no answer within {self.limit.seconds:g} s"))
        self.step(left)

    def step(self, seconds: float = 0) -> None:
        """Send what can be sent and take what has come, waiting `seconds` at most for either.

        Raises:
            AMQPError, TooLate: the connection or its channel has ended, now or before.
        """
        if self.why is None:
            try:
                if self._unsent:
                    self._send()  # before any wait: mostly there is room, and the server has begun
                if seconds <= 0 or self._ready(seconds):  # to read is to know whether there is more
                    self._receive()
            except OSError as lost:
                self.end(StreamLostError(f"the connection was lost: {lost}"))
            self._run_timers()
        if self.why is not None:
            self.end(self.why)

    def end(self, why: BaseException | None = None) -> None:
        """Give the connection up at once: the server takes back what it had delivered.

        Raises:
            BaseException: `why`, if it is given.
        """
        self.why = self.why or why or StreamLostError("it was closed here")
        if self._socket.fileno() >= 0:
            self._socket.close()
            self._on_stream_terminated(StreamLostError(str(self.why)))
        if why is not None:
            raise why.with_traceback(None)  # whoever goes on asking would make it longer and longer

    def say_goodbye(self) -> None:
        """Close the connection as the protocol wishes, if the server still listens."""
        with suppress(Exception):
            self.close()
            self.wait(lambda: self.is_closed)
        self.end()

    def _on_end(self, _: object, why: BaseException) -> None:
        self.why = self.why or why

    def _send(self) -> None:
        with suppress(*_NOT_NOW):
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]

    def _ready(self, seconds: float) -> bool:
        """Wait for what comes, or for room for what is unsent."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        return bool(poll.poll(max(0.0, min(seconds, self._timer_seconds())) * 1_000))

    def _receive(self) -> None:
        with suppress(*_NOT_NOW):
            while self.why is None:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("the server closed it")
                self.bytes_received += len(data)
                self._reader.feed(data)
                if len(data) < _READ_BYTES and self.params.ssl_options is None:
                    break  # there is no more; TLS hands out one record at a time

    def _other(self, data: bytes) -> None:
        self._process_frame(decode_frame(data)[1])

    def _timer_seconds(self) -> float:
        """Return how long it is until the first timer."""
        at = min((at for at, _ in self._timers.values()), default=float("inf"))
        return at - time.monotonic()

    def _run_timers(self) -> None:
        now = time.monotonic()
        for handle, (at, call) in list(self._timers.items()):
            if at <= now and handle in self._timers:
                del self._timers[handle]
                call()

    def _dial(self, host: str, port: int) -> socket.socket:
        """Connect to the first of a host's addresses that lets us.

        Each has its share of the time: one that is silent must not use up that of the next.
        """
        found = addresses(host, port, self._patience())
        why: OSError | None = None
        for untried, address in zip(range(len(found), 0, -1), found, strict=True):
            family, kind, protocol, _, place = socket.getaddrinfo(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )[0]
            dialled = socket.socket(family, kind, protocol)
            try:
                dialled.settimeout(self._patience() / untried)
                dialled.connect(place)
            except OSError as wrong:
                dialled.close()
                why = wrong
            else:
                return dialled
        raise why or OSError(f"{host} has no address")

    def _patience(self) -> float:
        """Return what is left of the limit, or what a look takes."""
        return max(0.1, self.limit.left())

    # What pika asks of an adapter.

    def _adapter_connect_stream(self) -> None:
        host, port = self.params.host, self.params.port
        self._socket = self._dial(host, port)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Who only publishes has no heartbeat: between two calls nobody would answer it.
        keep_alive(self._socket)
        if (tls := self.params.ssl_options) is not None:
            name = tls.server_hostname or host
            self._socket.settimeout(self._patience())
            self._socket = tls.context.wrap_socket(self._socket, server_hostname=name)
        self._socket.setblocking(False)
        self._on_stream_connected()

    def _adapter_disconnect_stream(self) -> None:
        if isinstance(self._error, AMQPError):  # what the server said: pika itself tells it later
            self.why = self.why or self._error
        self.end()

    def _adapter_emit_data(self, data: bytes) -> None:
        self._unsent += data

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> object:
        handle = object()
        self._timers[handle] = time.monotonic() + delay, callback
        return handle

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        self._timers.pop(timeout_id, None)

    def _adapter_add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self._adapter_call_later(0, callback)
