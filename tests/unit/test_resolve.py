"""Looking up a host's name ends in time, in addresses or in an OSError."""

import socket
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from dibs.wires.resolve import addresses


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that does not answer until the test is over."""
    over = Event()

    def wait(*_: object, **__: object) -> list[Any]:
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield
    over.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_its_own(host: str) -> None:
    assert addresses(host, 5432, 5) == [host]


def test_a_name_has_each_of_its_addresses_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resolver names an address again for each line of its file, or kind of socket."""
    assert "127.0.0.1" in addresses("localhost", 5432, 5)
    real = socket.getaddrinfo

    def twice(_: str, *rest: Any, **named: Any) -> list[Any]:
        return [one for host in ("::1", "127.0.0.1", "::1") for one in real(host, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", twice)
    assert addresses("two", 5432, 5) == ["::1", "127.0.0.1"]


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", "a" * 64 + ".b", "a\0b"])
def test_what_is_no_host_is_an_os_error(host: str) -> None:
    """Whatever Python makes of it."""
    with pytest.raises(OSError, match=r"(?i)name"):
        addresses(host, 5432, 30)


@pytest.mark.usefixtures("silent")
def test_rule_26_a_resolver_that_is_silent_holds_up_nobody() -> None:
    started = time.monotonic()
    with pytest.raises(OSError, match=r"no address of shop was found within 0\.1 s"):
        addresses("shop", 5432, 0.1)
    assert time.monotonic() - started < 1
