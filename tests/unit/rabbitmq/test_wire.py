"""How a connection is made where a host has several addresses, and what a message costs on it."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from dibs.wires.amqp.address import address_of
from dibs.wires.amqp.post import PERSISTENT
from dibs.wires.amqp.press import Press, Sheet
from dibs.wires.amqp.wire import Limit
from tests.servers.rabbitmq import Server

SECONDS = 1.2


class Names:
    """A host with addresses of a test's liking."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self._stack = stack
        self._places: list[tuple[str, int]] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def add(self, port: int) -> None:
        """Add an address on which somebody listens."""
        self._places.append(("127.0.0.1", port))

    def add_silent(self) -> None:
        """Add one that answers nothing: its queue of connections is full."""
        listener = self._listener(0)
        self._stack.enter_context(socket.socket()).connect(listener.getsockname())
        self._places.append(listener.getsockname())

    def add_listening(self) -> None:
        """Add one that lets connect and says nothing."""
        self._places.append(self._listener(5).getsockname())

    def _listener(self, backlog: int) -> socket.socket:
        listener = self._stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        return listener

    def _look_up(self, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in self._places]


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
        Press(address_of("amqp://broker/").parameters, Limit(SECONDS))
    assert time.monotonic() - began < 2 * SECONDS


def test_rule_26_a_silent_address_leaves_the_next_one_its_time(
    server: Server, names: Names
) -> None:
    names.add_silent()
    names.add(server.port)
    began = time.monotonic()
    press = Press(address_of("amqp://broker/").parameters, Limit(10.0))
    assert time.monotonic() - began < 10.0
    press.say_goodbye()


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

    parameters = address_of("amqps://broker/").parameters
    assert parameters.ssl_options is not None
    parameters.ssl_options.context = SimpleNamespace(wrap_socket=wrap_socket)
    with pytest.raises(ConnectionResetError):
        Press(parameters, Limit(SECONDS))
    assert left == [pytest.approx(SECONDS * 2 / 3, abs=SECONDS / 6)]


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
