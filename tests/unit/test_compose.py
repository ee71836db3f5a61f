"""The servers of compose.yaml are where the documentation says that they are."""

import re
from pathlib import Path

import pytest

from dibs.wires.amqp.address import address_of as rabbitmq_address
from dibs.wires.aws.client import address_of as sqs_address
from dibs.wires.libpq.dial import address as postgres_address
from dibs.wires.resp.address import address_of as redis_address

ROOT = Path(__file__).parents[2]
SERVICES = ["redis", "rabbitmq", "postgres", "sqs"]


def services() -> dict[str, str]:
    """Return what compose.yaml says of each service."""
    text = (ROOT / "compose.yaml").read_text().partition("\nvolumes:")[0]
    _, *parts = re.split(r"^  (\w+):$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture
def urls() -> dict[str, str]:
    """What docs/brokers.md says of each service."""
    page = (ROOT / "docs/brokers.md").read_text().partition("## To try them")[2]
    return dict(re.findall(r"^\| `(\w+)` \| `'?(\w+://[^`']*)'?`", page, re.MULTILINE))


def test_each_service_has_a_url(urls: dict[str, str]) -> None:
    assert list(urls) == list(services()) == SERVICES


def test_each_url_leads_to_its_service(urls: dict[str, str]) -> None:
    """By the port, and with the user, password and database that it is made with."""
    rabbitmq = rabbitmq_address(urls["rabbitmq"]).parameters
    postgres = postgres_address(urls["postgres"]).parameters
    ports = {
        "redis": redis_address(urls["redis"], {})[0].settings["port"],
        "rabbitmq": rabbitmq.port,
        "postgres": int(postgres.get("port", 5432)),
        "sqs": int(str(sqs_address(urls["sqs"]).endpoint).rpartition(":")[2]),
    }
    for service, text in services().items():
        assert f'"127.0.0.1:{ports[service]}:' in text
    assert (rabbitmq.credentials.username, rabbitmq.credentials.password) == ("guest", "guest")
    made = dict(re.findall(r"POSTGRES_(\w+): (\w+)", services()["postgres"]))
    named = {"USER": "user", "PASSWORD": "password", "DB": "dbname"}
    assert made == {ours: postgres[theirs] for ours, theirs in named.items()}
