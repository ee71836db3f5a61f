"""What an `sqs://` URL may say, what queues may be set to, and what is shown of it all."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from botocore.exceptions import ClientError
from msgspec.structs import replace

from dibs import App
from dibs.brokers.sqs import SqsBroker, open_sqs
from dibs.brokers.url import open_broker as open_by_url
from dibs.clock import SystemClock
from dibs.errors import BrokerRefused, UrlError
from dibs.testing.making import claim_one, message, publish
from dibs.wires.aws.client import Address, address_of, client_at
from tests.servers.sqs import Server
from tests.unit.sqs.conftest import Open
from tests.worker.scripted import HEAVY, PLAIN


def test_a_url_names_a_region_a_prefix_and_perhaps_an_endpoint() -> None:
    assert address_of("sqs://eu-west-1/shop-") == Address("eu-west-1", "shop-")
    local = address_of("sqs://eu-west-1/a?endpoint=http://127.0.0.1:5000")
    assert local == Address("eu-west-1", "a", "http://127.0.0.1:5000")
    assert str(local) == "sqs://eu-west-1/a?endpoint=http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqs://eu-west-1", "sqs://REGION/PREFIX"),
        ("sqs://eu-west-1/", "sqs://REGION/PREFIX"),
        ("sqs:///shop", "sqs://REGION/PREFIX"),
        ("sqs://eu-west-1/a/b", "sqs://REGION/PREFIX"),
        ("sqs://eu-west-1/a.fifo", "sqs://REGION/PREFIX"),
        ("sqs://eu-west-1/" + "a" * 15, "1 to 14"),
        ("sqs://AKIA:hunter2@eu-west-1/a", "sqs://REGION/PREFIX"),
        ("sqs://eu-west-1/a?endpont=x", "did you mean `endpoint`?"),
        ("sqs://eu-west-1/a?endpoint=x", "https://host:port"),
        ("sqs://eu-west-1/a?endpoint=https://u:hunter2@h", "has no user"),
        ("sqs://eu-west-1/a?endpoint=", "https://host:port"),
        ("sqs://eu-west-1/a?endpoint=http://[::1", "https://host:port"),
        ("sqs://eu-west-1/a?endpoint=https://u:hunter2\u2100@h", "has no user"),
    ],
)
def test_another_url_is_refused_with_the_right_form_and_without_its_secrets(
    url: str, said: str
) -> None:
    with pytest.raises(UrlError) as caught:
        address_of(url)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"])
def test_an_endpoint_may_be_named_by_awss_own_variables(
    server: Server, open_broker: Open, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    del open_broker
    monkeypatch.setenv(variable, server.endpoint)
    url = f"sqs://eu-west-1/{server.new_prefix()}"
    broker = open_by_url(url, worker_id=b"", clock=SystemClock())
    publish(broker, message())
    assert broker.url == url
    assert broker.capabilities.durability == "D0"
    assert claim_one(broker).message.task == "resize"
    broker.close()


@pytest.mark.parametrize(
    "endpoint", ["http://someone:hunter2@127.0.0.1:9/", "http://someone:hunter2@a b"]
)
def test_an_endpoint_with_a_secret_is_refused_without_showing_it(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every error would show it, and `dibs doctor`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", endpoint)
    with pytest.raises(BrokerRefused, match=r"endpoint") as caught:
        open_by_url("sqs://eu-west-1/shop-", worker_id=b"", clock=SystemClock())
    assert "hunter2" not in str(caught.value)


def test_a_ready_made_client_whose_endpoint_has_a_user_is_refused(open_broker: Open) -> None:
    del open_broker
    client = client_at(Address("eu-west-1", "x", "http://someone:hunter2@127.0.0.1:9"), 1, 10)
    with pytest.raises(BrokerRefused, match="must have no user: set AWS_ACCESS_KEY_ID") as caught:
        open_sqs(client, "shop-", clock=SystemClock())
    assert "hunter2" not in str(caught.value)


def test_amazons_own_endpoint_is_spoken_to_by_tls_and_verified() -> None:
    client = client_at(Address("eu-west-1", "a"), 3.5, 10)
    assert client.meta.endpoint_url == "https://sqs.eu-west-1.amazonaws.com"
    assert client._endpoint.http_session._verify is not False  # type: ignore[attr-defined]


def test_a_ready_made_client_is_taken(server: Server, open_broker: Open) -> None:
    del open_broker
    client = client_at(Address("eu-west-1", "x", server.endpoint), 60, 10)
    broker = open_sqs(client, server.new_prefix(), clock=SystemClock())
    publish(broker, message())
    assert len(broker.claim(["photos"], 1).leases) == 1
    broker.close()


def test_opening_says_whether_there_was_anything(open_broker: Open) -> None:
    assert open_broker().created
    publish(open_broker(), message())
    assert not open_broker().created


Setting = Callable[[SqsBroker, str], dict[str, str]]


def stealing(broker: SqsBroker, url: str, receives: int = 5) -> dict[str, str]:
    arn = broker._client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": receives}
    return {"RedrivePolicy": json.dumps(policy)}


BAD: dict[str, tuple[Setting, str]] = {
    "redrive policy": (stealing, "after 5 receives.*maxReceiveCount to 1000"),
    "retention": (lambda *_: {"MessageRetentionPeriod": "3600"}, "retention.*1209600"),
    "size": (lambda *_: {"MaximumMessageSize": "65536"}, "65,536 bytes.*1048576"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_queue_that_would_lose_jobs_is_refused_saying_how_to_mend_it(
    open_broker: Open, name: str
) -> None:
    setting, said = BAD[name]
    broker = open_broker()
    broker.declare(["photos"])
    url = broker._queues.url("photos")
    broker._client.set_queue_attributes(QueueUrl=url, Attributes=setting(broker, url))  # type: ignore[arg-type]
    with pytest.raises(BrokerRefused, match=said):
        broker.declare(["photos"])
    bad = [one for one in broker.inspector().findings() if one.verdict == "bad"]
    assert [one.what.endswith("of photos") for one in bad] == [True]
    assert bad[0].advice


LOST = "SQS takes a job away before a max_lost of"


@pytest.mark.parametrize(
    ("receives", "max_lost", "said"),
    [
        (8, 3, None),
        (11, 10, None),
        (11, 11, f"photos is after 11 receives: {LOST} 11 is used up: set maxReceiveCount to 1000"),
        (1_000, 999, None),
        (1_000, 1_000, f"{LOST} 1,000 is used up: lower that to 999 at most, or remove the policy"),
    ],
)
def test_a_queue_that_ends_a_job_before_a_tasks_budget_of_losses_does_is_refused(
    open_broker: Open, receives: int, max_lost: int, said: str | None
) -> None:
    """It would be a dead letter of SQS's own, without a reason."""
    broker = open_broker()
    broker.declare(["photos"])
    url = broker._queues.url("photos")
    broker._client.set_queue_attributes(QueueUrl=url, Attributes=stealing(broker, url, receives))  # type: ignore[arg-type]
    broker.expect([replace(PLAIN, max_lost=max_lost), replace(PLAIN, max_lost=1), HEAVY])
    with nullcontext() if said is None else pytest.raises(BrokerRefused, match=said):
        broker.declare(["photos", "videos"])


def test_a_worker_of_a_task_that_its_queue_cuts_short_does_not_start(open_broker: Open) -> None:
    broker = open_broker()
    broker.declare(["photos"])
    url = broker._queues.url("photos")
    broker._client.set_queue_attributes(QueueUrl=url, Attributes=stealing(broker, url, 11))  # type: ignore[arg-type]
    app = App(broker.url)
    app.task(name="resize", queue="photos", max_lost=100)(lambda: None)
    with pytest.raises(BrokerRefused, match=r"of photos is after 11 receives.*max_lost of 100"):
        app.worker().drain()
    app.close()


def test_the_queues_that_dibs_makes_are_as_they_should_be(open_broker: Open) -> None:
    broker = open_broker()
    broker.declare(["photos", "videos"])
    findings = broker.inspector().findings()
    assert {one.verdict for one in findings[1:]} == {"good"}
    assert findings[0].verdict == "note"  # http, on this machine


def test_every_queue_of_a_prefix_is_seen_however_many_there_are(broker: SqsBroker) -> None:
    """SQS names 1,000 at once: the rest could be neither shown nor purged nor resumed."""
    prefix = broker._queues._address.prefix
    for number in range(1_001):
        broker._client.create_queue(QueueName=f"{prefix}q{number:04}")
    inspector = broker.inspector()
    assert len(broker._queues.names()) == 1_001
    publish(broker, message("q1000"))
    inspector.pause("q1000")
    inspector.resume("q1000")
    assert inspector.purge("q1000") == 1


def test_addresses_are_there_for_a_call_that_a_poll_has_them_forgotten_in(
    broker: SqsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.declare(["photos"])
    queues = broker._queues
    every, known = queues._calls.all, queues.url("photos")
    gone = ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "ReceiveMessage")

    def call_while_a_poll_finds_its_queue_gone(calls: Any, until: float) -> Any:
        answers = every(calls, until)
        queues.heard(known, gone)
        return answers

    monkeypatch.setattr(queues._calls, "all", call_while_a_poll_finds_its_queue_gone)
    publish(broker, message(), message("videos"))


def test_a_queue_that_takes_less_lowers_the_payload_limit(open_broker: Open) -> None:
    broker = open_broker()
    broker.declare(["photos"])
    limits = [broker.capabilities.payload_limit]
    url = broker._queues.url("photos")
    broker._client.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": "262144"})
    broker.declare(["photos"])
    limits.append(broker.capabilities.payload_limit)
    assert limits == [1_048_576 - 65_536, 262_144 - 65_536]


def test_the_adapter_is_not_imported_before_its_url_is() -> None:
    """boto3 costs a start a quarter of a second."""
    code = "import sys, dibs, dibs.brokers.url, dibs.worker.service; print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
