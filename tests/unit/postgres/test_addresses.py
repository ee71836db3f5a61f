"""Where a connection goes: hosts, addresses and services, each within its share of the time."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from psycopg import OperationalError

from dibs.clock import SystemClock
from dibs.wires.libpq.dial import address, dial
from tests.servers.ports import free_port
from tests.servers.postgres import serving

AT, SILENT = "127.0.0.2", "127.0.0.1"


@pytest.fixture(scope="module")
def port(binaries: Path) -> Iterator[int]:
    """The port of a server at one address; at another, something there takes it and is silent."""
    port = free_port()
    with (
        serving(binaries, f"listen_addresses={AT}", f"port={port}"),
        socket.create_server((SILENT, port)),
    ):
        yield port


def test_rule_26_a_silent_address_of_a_name_leaves_time_for_the_next(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name has an address of each protocol, and one of them may lead nowhere."""
    real = socket.getaddrinfo

    def both(_: str, *rest: Any, **named: Any) -> list[Any]:
        return [one for host in (SILENT, AT) for one in real(host, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    parameters = address(f"postgresql://dibs@shop:{port}/postgres").parameters
    with dial(parameters, SystemClock(), 1) as connection:
        assert (connection.info.host, connection.info.hostaddr) == ("shop", AT)


def test_rule_26_a_name_that_nobody_looks_up_holds_up_no_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes its share, and the next host is tried."""
    real, over = socket.getaddrinfo, Event()

    def slow(host: str, *rest: Any, **named: Any) -> list[Any]:
        if host == "lost":
            over.wait()
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        started = time.monotonic()
        with pytest.raises(OperationalError, match=r'host name "lost".*within 0\.2 s'):
            dial(address("postgresql://dibs@lost/postgres").parameters, SystemClock(), 0.2)
        assert time.monotonic() - started < 1
        both = address(f"postgresql://dibs@lost:1,{AT}:{port}/postgres").parameters
        with dial(both, SystemClock(), 1) as connection:
            assert connection.info.host == AT
    finally:
        over.set()


def test_a_service_says_where_its_port_is(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port that libpq was built with holds where nobody names one."""
    file = tmp_path / "services"
    file.write_text(f"[shop]\nhost={AT}\nport={port}\nuser=dibs\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    parameters = address("postgresql:///?service=shop").parameters
    with dial(parameters, SystemClock(), 2) as connection:
        assert connection.info.port == port
    parameters = address(f"postgresql://{AT}/?service=shop").parameters
    with dial(parameters, SystemClock(), 2) as connection:
        assert connection.info.port == port


@pytest.mark.parametrize("where", ["url", "environment", "service"])
def test_a_random_order_of_addresses_is_left_to_libpq(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It looks the name up itself: ours would be tried in the resolver's order."""
    file = tmp_path / "services"
    file.write_text("[shop]\nload_balance_hosts=random\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    options = {"url": "load_balance_hosts=random", "service": "service=shop"}.get(where, "")
    if where == "environment":
        monkeypatch.setenv("PGLOADBALANCEHOSTS", "random")
    parameters = address(f"postgresql://dibs@{AT}:{port}/postgres?{options}").parameters
    with dial(parameters, SystemClock(), 2) as connection:
        assert "hostaddr" not in connection.info.get_parameters()
