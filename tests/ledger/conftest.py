"""A shop on each kind of connection, and the server that half of them need."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.shops import KINDS, Kind, Place, Shop
from tests.servers.missing import not_installed
from tests.servers.postgres import Server, programs, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server; where there is none to start, the test says so."""
    binaries = programs()
    if binaries is None:
        not_installed("PostgreSQL", "postgresql")
    with serving(binaries) as running:
        yield running


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of connection."""
    found: Kind = request.param
    return found


@pytest.fixture
def shop(request: pytest.FixtureRequest, kind: Kind, tmp_path: Path) -> Shop:
    """A shop of this kind, with no ledger yet."""
    path = tmp_path / "shop.db"
    if kind.dialect == "sqlite":
        return Shop(kind, Place(path))
    server: Server = request.getfixturevalue("server")
    return Shop(kind, Place(path, server.folder, server.new_database()))
