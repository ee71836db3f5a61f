"""What lies in SQS: bodies, attributes, hops, dead letters, and what other programs send."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dibs.brokers import wire
from dibs.brokers.contract import Applied, Held, Refused, Stored
from dibs.brokers.sqs import SqsBroker
from dibs.brokers.wire import Envelope, Past
from dibs.message import Ack, Attempt, DeadLetter, Error, Lease, Nack, Release
from dibs.policy import before_run
from dibs.testing.clock import ManualClock
from dibs.testing.making import (
    ERROR,
    claim_all,
    claim_one,
    counters,
    message,
    publish,
    settle,
)
from tests.servers.sqs import Server
from tests.servers.sqs_faults import Front
from tests.unit.sqs.conftest import Open

HOUR_MS = 3_600_000


class Raw:
    """The same queues, with nothing around the client."""

    def __init__(self, broker: SqsBroker) -> None:
        self.client = broker._client
        self.prefix = broker.url.partition("?")[0].rpartition("/")[2]

    def url(self, queue: str) -> str:
        return self.client.get_queue_url(QueueName=self.prefix + queue)["QueueUrl"]

    def send(self, queue: str, body: str, **attributes: str) -> None:
        typed: Any = {
            name.replace("_", "-"): {"DataType": "String", "StringValue": value}
            for name, value in attributes.items()
        }
        self.client.send_message(
            QueueUrl=self.url(queue), MessageBody=body, MessageAttributes=typed
        )

    def receive(self, queue: str) -> list[Any]:
        asked = ["All"]
        answer = self.client.receive_message(
            QueueUrl=self.url(queue),
            MaxNumberOfMessages=10,
            MessageAttributeNames=asked,
            VisibilityTimeout=0,
        )
        return list(answer.get("Messages", []))

    def counts(self, queue: str) -> tuple[int, int, int]:
        found: Any = self.client.get_queue_attributes(
            QueueUrl=self.url(queue), AttributeNames=["All"]
        )["Attributes"]
        kinds = ("", "Delayed", "NotVisible")
        ready, later, held = (int(found[f"ApproximateNumberOfMessages{kind}"]) for kind in kinds)
        return ready, later, held


@pytest.fixture
def raw(broker: SqsBroker) -> Raw:
    broker.declare(["photos"])
    return Raw(broker)


class Time:
    """The server's time and the broker's, moved together."""

    def __init__(self, server: Server) -> None:
        self.clock = ManualClock()
        self._server = server
        server.follow(self.clock)

    def passes(self, ms: int) -> None:
        self.clock.advance(ms)
        self._server.follow(self.clock)


@pytest.fixture
def time(server: Server) -> Time:
    return Time(server)


def test_arguments_of_text_are_the_body_as_they_are(broker: SqsBroker, raw: Raw) -> None:
    """Whoever looks into the queue with other tools can read them."""
    publish(broker, message(args='{"path":"été 𝄞.jpg"}'.encode()))
    (found,) = raw.receive("photos")
    assert found["Body"] == '{"path":"été 𝄞.jpg"}'
    assert list(found["MessageAttributes"]) == ["dibs"]


@given(args=st.binary(max_size=200))
def test_every_byte_comes_back_through_a_body_of_xml_characters(args: bytes) -> None:
    body, plain = wire.body_of(args)
    assert body
    assert all(one in "\t\n\r" or "\x20" <= one <= "\ud7ff" or one >= "\ue000" for one in body)
    assert not {"\ufffe", "\uffff"} & set(body)
    assert wire.args_of(body, plain) == args


def test_what_grows_in_base64_past_the_limit_is_refused(broker: SqsBroker) -> None:
    """As text it would fit; its copy for a retry would not, and nobody could ever retry it."""
    size = broker.capabilities.payload_limit
    assert broker.publish([message(args=b"x" * size)]) == [Stored()]
    (answer,) = broker.publish([message(args=b"\xff" * size)])
    assert isinstance(answer, Refused)
    assert "base64" in answer.why


@pytest.mark.parametrize("queue", ["photos--dead", "photos--long"])
def test_what_dibs_names_itself_is_no_queue(broker: SqsBroker, queue: str) -> None:
    (answer,) = broker.publish([message(queue)])
    assert isinstance(answer, Refused)
    assert "queue" in answer.why


def test_many_long_errors_fit_beside_the_arguments(broker: SqsBroker) -> None:
    """The largest message there is can still be retried and given up on."""
    error = Error("E" * 5_000, "é\ud800\0" * 5_000, "𝄞" * 50_000)
    publish(broker, message(args=b"x" * broker.capabilities.payload_limit))
    for _ in range(9):
        assert settle(broker, claim_one(broker), Nack(0, error)) == Applied()
    lease = claim_one(broker)
    assert lease.failures == 9
    assert settle(broker, lease, DeadLetter("max_attempts", error)) == Applied()


def test_what_is_too_much_drops_the_oldest_attempts_first() -> None:
    attempts = tuple(Attempt(n, 0, "failure", Error("E", "x" * 900)) for n in range(20))
    data = wire.sealed(Envelope(message(), Past(20, attempts=attempts)), 10_000)
    assert len(data) <= 10_000
    found = wire.opened(data)
    assert found is not None
    assert [one.fence for one in found.past.attempts] == list(range(10, 20))


def test_rule_34_an_envelope_that_is_nested_too_deeply_is_none() -> None:
    """Nobody's worker ends of it."""
    data = wire.sealed(Envelope(message()), 10_000)
    fields, deep = bytes([data[0] + 1]) + data[1:], b"\x91" * 200_000 + b"\xc0"
    assert wire.opened(fields + b"\xc0") == wire.opened(data)
    assert wire.opened(fields + deep) is None


def test_a_dead_letter_says_why_and_may_be_moved_back_with_fresh_budgets(
    broker: SqsBroker, raw: Raw
) -> None:
    """By SQS's own redrive, or by hand: its id is the same, and its fence goes on."""
    (whole,) = publish(broker, message(args=b"\0\1", headers={"a": "é"}, max_attempts=1))
    settle(broker, claim_one(broker), Nack(0, ERROR, "crash"))
    settle(broker, claim_one(broker), DeadLetter("max_attempts", ERROR, "failure"))
    assert raw.counts("photos") == (0, 0, 0)
    (dead,) = raw.receive("photos--dead")
    told = {k: v.get("StringValue") for k, v in dead["MessageAttributes"].items()}
    assert told["dibs-reason"] == "max_attempts"
    assert told["dibs-error"] == "ValueError: no such photo: 写真"
    assert told["dibs-counters"] == "failures 1, crashes 1, lost 0"
    fields = ("DataType", "StringValue", "BinaryValue")
    attributes = {
        name: {key: value[key] for key in fields if key in value}
        for name, value in dead["MessageAttributes"].items()
    }
    raw.client.send_message(
        QueueUrl=raw.url("photos"), MessageBody=dead["Body"], MessageAttributes=attributes
    )
    again = claim_one(broker)
    assert again.message == whole
    assert counters(again) == (0, 0, 0)
    assert again.fence == 3


def test_another_program_sends_json_and_names_the_task(broker: SqsBroker, raw: Raw) -> None:
    """Its message is a job like any other from then on; other attributes are its headers."""
    raw.send("photos", json.dumps({"path": "a.jpg"}), dibs_task="resize", tenant="blue")
    lease = claim_one(broker)
    assert (lease.message.task, lease.message.args) == ("resize", b'{"path": "a.jpg"}')
    assert lease.message.headers == {"tenant": "blue"}
    assert before_run(lease, None) is None
    settle(broker, lease, Nack(0, ERROR))
    again = claim_one(broker)
    assert again.message == lease.message
    assert (again.failures, again.fence) == (1, 2)


@pytest.mark.parametrize("attribute", [None, b"", b"\xc1", b"\x91\x01"])
def test_what_nobody_can_read_is_a_dead_letter_with_its_bytes(
    broker: SqsBroker, raw: Raw, attribute: bytes | None
) -> None:
    """Never dropped, and never in the way of what follows it."""
    if attribute:
        binary: Any = {"dibs": {"DataType": "Binary", "BinaryValue": attribute}}
    else:
        binary = {}
    raw.client.send_message(
        QueueUrl=raw.url("photos"), MessageBody="<what>", MessageAttributes=binary
    )
    publish(broker, message())
    leases = {lease.message.task: lease for lease in claim_all(broker)}
    assert set(leases) == {"resize", "unreadable"}
    odd = leases["unreadable"]
    assert odd.message.args == b"<what>"
    outcome = before_run(odd, None)
    assert isinstance(outcome, DeadLetter)
    assert settle(broker, odd, outcome) == Applied()
    (dead,) = raw.receive("photos--dead")
    assert dead["Body"] == "<what>"


@pytest.mark.parametrize("way", ["published", "failed"])
def test_a_delay_over_fifteen_minutes_goes_in_hops_that_nobody_counts(
    open_broker: Open, time: Time, way: str
) -> None:
    """Never early, in time where somebody looks, and with its fence and counters as they were."""
    broker = open_broker(clock=time.clock)
    due_ms = time.clock.wall_ms() + HOUR_MS if way == "published" else 0
    (whole,) = publish(broker, message(due_ms=due_ms))
    if way == "failed":
        settle(broker, claim_one(broker), Nack(HOUR_MS, ERROR))
    for _ in range(59):
        time.passes(60_000)
        assert claim_all(broker) == []
    time.passes(60_000)
    lease = claim_one(broker)
    assert lease.message == whole
    failures = way == "failed"
    assert (lease.fence, lease.failures, lease.lost) == (1 + failures, failures, 0)


def test_a_hop_that_nobody_met_in_time_is_not_waited_for_again(
    open_broker: Open, time: Time
) -> None:
    """Whatever hours no worker was there, what is due is due."""
    broker = open_broker(clock=time.clock)
    publish(broker, message(due_ms=time.clock.wall_ms() + HOUR_MS))
    time.passes(2 * HOUR_MS)
    assert len(claim_all(broker)) == 1


def test_a_lease_is_renewed_past_the_twelve_hours_of_sqs(open_broker: Open, time: Time) -> None:
    """The copy that takes its place is held from the first moment, and ends with its job."""
    broker = open_broker(clock=time.clock)
    other = open_broker(clock=time.clock)
    publish(broker, message(visibility_timeout_ms=HOUR_MS))
    lease = claim_one(broker)
    for _ in range(30 * 3):
        time.passes(HOUR_MS // 3)
        (answer,) = broker.extend([lease])
        assert answer.__class__.__name__ == "Held"
        assert claim_all(other) == []
    raw = Raw(broker)
    assert raw.counts("photos") == (0, 0, 0)
    assert raw.counts("photos--long") == (0, 0, 1)
    assert settle(broker, lease, Nack(0, ERROR)) == Applied()
    assert raw.counts("photos--long") == (0, 0, 0)
    again = claim_one(other)
    assert (again.fence, again.failures, again.lost) == (2, 1, 0)
    assert settle(other, again, Release()) == Applied()


def test_a_long_lease_whose_holder_died_comes_back(open_broker: Open, time: Time) -> None:
    """Claims look where it lies once in a while; its loss is counted."""
    broker = open_broker(clock=time.clock)
    (whole,) = publish(broker, message(visibility_timeout_ms=HOUR_MS))
    lease = claim_one(broker)
    for _ in range(13):
        time.passes(HOUR_MS - 1_000)
        broker.extend([lease])
    other = open_broker(clock=time.clock)
    time.passes(HOUR_MS)
    (again,) = claim_all(other)
    assert replace(again.message) == whole
    assert (again.fence, again.lost) == (2, 1)


def test_a_paused_queue_grants_nothing_of_its_long_leases_either(
    open_broker: Open, time: Time
) -> None:
    broker = open_broker(clock=time.clock)
    publish(broker, message(visibility_timeout_ms=HOUR_MS))
    lease = claim_one(broker)
    for _ in range(13):
        time.passes(HOUR_MS - 1_000)
        broker.extend([lease])
    other = open_broker(clock=time.clock)
    other.inspector().pause("photos")
    time.passes(HOUR_MS)
    for _ in range(3):
        time.passes(300_000)
        assert claim_all(other) == []
    other.inspector().resume("photos")
    time.passes(300_000)
    assert len(claim_all(other)) == 1


def grown_old(broker: SqsBroker, time: Time) -> Lease:
    """Return a lease of half an hour that is carried on at its next extension."""
    publish(broker, message(visibility_timeout_ms=HOUR_MS // 2))
    lease = claim_one(broker)
    for _ in range(68):
        time.passes(HOUR_MS // 6)
        assert isinstance(broker.extend([lease])[0], Held)
    time.passes(HOUR_MS // 6)
    return lease


def test_a_copy_that_was_not_met_is_looked_for_and_not_sent_again(
    open_broker: Open, front: Front, time: Time
) -> None:
    """Each copy too many would run once more, after the job was acknowledged. Another worker's
    claim that meets it first leaves it to its sender.
    """
    broker, other = open_broker(front.endpoint, time.clock), open_broker(clock=time.clock)
    lease, raw = grown_old(broker, time), Raw(other)
    front.spoil("ReceiveMessage", "503")
    broker.extend([lease])
    assert raw.counts("photos--long") == (1, 0, 0)
    assert claim_all(other) == []
    assert raw.counts("photos--long") == (0, 0, 1)
    time.passes(HOUR_MS // 6)
    assert isinstance(broker.extend([lease])[0], Held)
    assert front.seen.count("SendMessage") == 1
    assert (raw.counts("photos"), raw.counts("photos--long")) == ((0, 0, 0), (0, 0, 1))
    assert settle(broker, lease, Ack()) == Applied()
    assert raw.counts("photos--long") == (0, 0, 0)


def test_a_lease_is_its_copys_from_when_that_is_received(
    open_broker: Open, front: Front, time: Time
) -> None:
    """Whatever becomes of the old message: an acknowledgement ends what goes on to be renewed."""
    broker = open_broker(front.endpoint, time.clock)
    lease, raw = grown_old(broker, time), Raw(broker)
    front.spoil("DeleteMessageBatch", "503")
    front.spoil("DeleteMessage", "503")
    assert isinstance(broker.extend([lease])[0], Held)
    assert settle(broker, lease, Ack()) == Applied()
    assert raw.counts("photos--long") == (0, 0, 0)
