"""Looking up a host's name ends in time, in addresses or in an OSError."""

import socket
import threading
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


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%1"])
def test_an_address_is_its_own(host: str) -> None:
    """No resolver is asked."""
    assert addresses(host, 5432, 0.1) == [host]


def test_an_address_of_one_network_says_of_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nobody can connect to it, and two networks may have the same."""
    real, found = socket.getaddrinfo, ["fe80::1%1", "fe80::1%2"]

    def near(_: str, *rest: Any, **named: Any) -> list[Any]:
        return [one for host in found for one in real(host, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", near)
    assert addresses("printer.local", 5432, 5) == found


def test_where_no_thread_can_begin_a_name_is_looked_up_all_the_same() -> None:
    """As an interpreter ends that still has something to give back; here, for want of memory."""
    before = threading.stack_size(1 << 47)
    try:
        assert "127.0.0.1" in addresses("localhost", 5432, 5)
    finally:
        threading.stack_size(before)


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
