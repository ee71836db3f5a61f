"""How a connection is made where a host has several addresses, and what a message costs on it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from dibs.wires.amqp import wire
from dibs.wires.amqp.address import address_of
from dibs.wires.amqp.post import PERSISTENT
from dibs.wires.amqp.press import Press, Sheet
from dibs.wires.amqp.wire import Limit
from tests.servers.ports import free_port
from tests.servers.rabbitmq import Server

SECONDS = 1.2


class Names:
    """A host with addresses of a test's liking, on each of which somebody listens at `port`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.port = free_port()
        self._stack = stack
        self._places: list[str] = []
        monkeypatch.setattr(wire, "addresses", lambda *_: self._places)

    def add(self, address: str) -> None:
        """Add one where there is a listener already."""
        self._places.append(address)

    def add_silent(self) -> None:
        """Add one that answers nothing: its queue of connections is full."""
        listener = self._listener(0)
        self._stack.enter_context(socket.socket()).connect(listener.getsockname())

    def add_listening(self) -> None:
        """Add one that lets connect and says nothing."""
        self._listener(5)

    def _listener(self, backlog: int) -> socket.socket:
        listener = self._stack.enter_context(socket.socket())
        self._places.append(f"127.0.0.{len(self._places) + 2}")
        listener.bind((self._places[-1], self.port))
        listener.listen(backlog)
        return listener


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    with ExitStack() as stack:
        yield Names(monkeypatch, stack)


def test_rule_26_a_host_of_which_all_addresses_are_silent_is_given_up_in_time(
    names: Names,
) -> None:
    """The limit is that of the call, and not of each address."""
    for _ in range(3):
        names.add_silent()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Press(address_of(f"amqp://broker:{names.port}/").parameters, Limit(SECONDS))
    assert time.monotonic() - began < 2 * SECONDS


def test_rule_26_a_silent_address_leaves_the_next_one_its_time(
    server: Server, names: Names
) -> None:
    names.port = server.port
    names.add_silent()
    names.add("127.0.0.1")
    began = time.monotonic()
    press = Press(address_of(f"amqp://broker:{names.port}/").parameters, Limit(10.0))
    assert time.monotonic() - began < 10.0
    press.say_goodbye()


def test_rule_26_a_resolver_that_is_silent_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait() and [])
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no address of broker"):
        Press(address_of("amqp://broker/").parameters, Limit(SECONDS))
    assert time.monotonic() - began < 2 * SECONDS
    answer.set()


def test_rule_26_the_handshake_of_tls_has_what_is_left_of_the_limit(names: Names) -> None:
    """Not the share of the address, and not the whole again."""
    names.add_silent()
    names.add_listening()
    names.add_silent()
    left: list[float | None] = []

    def wrap_socket(raw: socket.socket, **_: object) -> None:
        left.append(raw.gettimeout())
        raw.close()
        raise ConnectionResetError

    parameters = address_of(f"amqps://broker:{names.port}/").parameters
    assert parameters.ssl_options is not None
    parameters.ssl_options.context = SimpleNamespace(wrap_socket=wrap_socket)
    with pytest.raises(ConnectionResetError):
        Press(parameters, Limit(SECONDS))
    assert left == [pytest.approx(SECONDS * 2 / 3, abs=SECONDS / 6)]


def test_a_connection_that_nobody_uses_is_kept_alive(server: Server) -> None:
    """What is between forgets one that is silent, and the next message would wait for nobody."""
    press = Press(address_of(server.url()).with_heartbeat(0), Limit(10.0))
    assert press._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
    there = {name: getattr(socket, name) for name in wanted if hasattr(socket, name)}
    assert there
    for name, option in there.items():
        assert press._socket.getsockopt(socket.IPPROTO_TCP, option) == wanted[name]
    press.say_goodbye()


class Counted:
    """A socket that notes what it is asked for."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in {"send", "recv"}:
            self.asked.append(name)
        return getattr(self._real, name)


def test_a_confirmed_message_is_one_write_and_one_read(server: Server) -> None:
    """Between the write and the wait the server may lack the processor that we are on."""
    press = Press(address_of(server.url()).parameters, Limit(10.0))
    press.ask("queue_declare", queue="one-write", durable=True)
    counted = press._socket = Counted(press._socket)
    assert press.print([Sheet("", "one-write", PERSISTENT, b"")]) == ["stored"]
    assert counted.asked == ["send", "recv"]
    press.say_goodbye()
