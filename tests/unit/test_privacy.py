"""What `dibs doctor` says of the way to a server."""

import pytest

from dibs.brokers.contract import Finding
from dibs.brokers.privacy import connection


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "::1"])
@pytest.mark.parametrize("verified", [True, False, None])
def test_nobody_reads_along_on_this_machine(host: str, verified: bool | None) -> None:
    found = connection(host, verified, "use TLS")
    assert (found.what, found.verdict, found.advice) == ("connection", "good", "")


def test_over_a_network_only_a_verified_server_is_good() -> None:
    """Whoever stands in between can show a certificate of his own."""
    found = [connection("db.example.org", verified, "use TLS") for verified in (True, False, None)]
    advice = "use TLS where others can read along"
    assert found == [
        Finding("connection", "TLS, the server verified", "good"),
        Finding("connection", "TLS, the server not verified", "note", advice),
        Finding("connection", "not encrypted", "note", advice),
    ]
