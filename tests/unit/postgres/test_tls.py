"""A PostgreSQL server that is spoken to over TLS, and must be who it says it is."""

import os
import select
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dibs.brokers.postgres import open_url
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.testing.making import claim, ids, message, publish
from tests.servers.certificate import Certificate, make_certificate
from tests.servers.ports import free_port
from tests.servers.postgres import serving

SOON_SECONDS = 5.0


@pytest.fixture(scope="module")
def secure(binaries: Path) -> Iterator[tuple[int, Certificate]]:
    """The port of a server, and its certificate, in a folder that the server's user may enter."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dibs-tls-") as folder:
        os.chmod(folder, 0o755)
        made = make_certificate(Path(folder), None if os.getuid() else "postgres")
        files = (f"ssl_cert_file={made.path}", f"ssl_key_file={made.key}")
        with serving(binaries, "listen_addresses=127.0.0.1", f"port={port}", "ssl=on", *files):
            yield port, made


def url_of(port: int, root: Path, host: str = "localhost") -> str:
    return f"postgresql://dibs@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={root}"


def test_jobs_travel_over_tls_and_the_bell_rings(secure: tuple[int, Certificate]) -> None:
    port, made = secure
    one, other = (
        open_url(url_of(port, made.path), clock=SystemClock(), worker_id=os.urandom(16))
        for _ in range(2)
    )
    one.declare(["photos"])
    one.bell()
    assert claim(one) == []
    (published,) = publish(other, message(args=os.urandom(300_000)))
    assert select.select([one.bell()], [], [], SOON_SECONDS)[0]
    assert ids(claim(one)) == [published.id]
    for broker in (one, other):
        broker.close()


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("verify-full", "TLS, the server verified"),
        ("verify-ca", "TLS, the server not verified"),
        (None, "TLS, the server not verified"),
        ("disable", "not encrypted"),
    ],
)
def test_doctor_says_whether_the_server_is_verified(
    secure: tuple[int, Certificate], mode: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libpq does by default, too, or by its variables: it takes any certificate then."""
    port, made = secure
    url = url_of(port, made.path).replace("sslmode=verify-full&", "")
    if mode:
        monkeypatch.setenv("PGSSLMODE", mode)
    with closing(open_url(url, clock=SystemClock(), worker_id=os.urandom(16))) as broker:
        (way,) = [one for one in broker.inspector().findings() if one.what == "connection"]
    assert (way.found, way.verdict) == (found, "good")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_that_nobody_vouches_for_or_of_another_name_is_refused(
    secure: tuple[int, Certificate], host: str, tmp_path: Path
) -> None:
    port, made = secure
    root = make_certificate(tmp_path).path if host == "localhost" else made.path
    with pytest.raises(BrokerUnavailable, match="certificate"):
        open_url(url_of(port, root, host), clock=SystemClock(), worker_id=b"1" * 16)
