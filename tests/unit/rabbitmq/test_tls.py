"""A RabbitMQ server that is spoken to over TLS, and must be who it says it is."""

import os
import select
from collections.abc import Iterator

import pytest

from dibs.brokers.contract import Finding
from dibs.brokers.rabbitmq import open_url
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.message import Ack
from dibs.testing.making import claim, ids, message, messages, publish, settle
from tests.servers.missing import not_installed
from tests.servers.rabbitmq import Server, programs, serving

SOON_SECONDS = 5.0


@pytest.fixture(scope="module")
def secure() -> Iterator[Server]:
    binaries = programs()
    if binaries is None:
        not_installed("RabbitMQ", "rabbitmq-server")
    with serving(binaries, tls=True) as running:
        yield running


def test_jobs_travel_over_tls_and_the_bell_rings(
    secure: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is longer than a record of TLS, of which a part is read and a part is not."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificate.path))
    url = f"amqps://localhost:{secure.tls_port}/"
    one, other = (open_url(url, clock=SystemClock(), worker_id=os.urandom(16)) for _ in range(2))
    assert one.url.startswith("amqps://")
    one.declare(["photos"])
    assert Finding("connection", "TLS, the server verified", "good") in one.inspector().findings()
    one.bell()
    assert claim(one, limit=100) == []
    published = publish(other, message(args=os.urandom(300_000)), *messages(50))
    leases = []
    while len(leases) < len(published):
        assert select.select([one.bell()], [], [], SOON_SECONDS)[0]
        leases += claim(one, limit=100)
    assert sorted(ids(leases)) == sorted(ids(published))
    assert all(settle(one, lease, Ack()).__class__.__name__ == "Applied" for lease in leases)
    for broker in (one, other):
        broker.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_that_nobody_vouches_for_or_of_another_name_is_refused(
    secure: Server, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host == "127.0.0.1":
        monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificate.path))
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        open_url(f"amqps://{host}:{secure.tls_port}/", clock=SystemClock(), worker_id=b"1" * 16)
