"""What a server answers wrongly is told, waited out, and never taken for an empty queue."""

import select
import time

import pytest

from dibs.brokers.contract import Applied, Broker, Gone, Held, Lost, Stale, Stored, Unknown
from dibs.brokers.sqs import SqsBroker
from dibs.errors import BrokerError, BrokerRefused, BrokerUnavailable
from dibs.message import Ack, DeadLetter, Lease, Nack, Settlement
from dibs.testing.clock import ManualClock
from dibs.testing.making import ERROR, claim_all, claim_one, message, messages, publish, settle
from tests.servers.sqs_faults import DELETED, FAULTS, LOST, SILENT, Front
from tests.unit.sqs.conftest import Open
from tests.worker.workers import until

HEAL_SECONDS = 10.0
LONGEST_CALL_SECONDS = 5.0


def worked(broker: Broker, seconds: float = HEAL_SECONDS) -> tuple[list[Lease], list[BrokerError]]:
    """Do as a pump does, until there is a lease: wait for the bell, claim, bear with trouble."""
    told: list[BrokerError] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if leases := broker.claim(["photos"], 10).leases:
                return leases, told
        except BrokerError as error:
            told.append(error)
            select.select([], [], [], 0.05)
            continue
        select.select([broker.bell()], [], [], 1.0)
    raise AssertionError(f"nothing within {seconds:g} s, but {told}")


@pytest.mark.parametrize("fault", FAULTS)
def test_b16_a_poll_that_is_answered_wrongly_is_told_and_made_again(
    open_broker: Open, front: Front, fault: str
) -> None:
    """kombu 1064, celery 8243: an error of the server ended the poller, and nobody knew."""
    publish(open_broker(), message())
    claim_one(open_broker())  # so that the queue is there, and empty
    front.spoil("ReceiveMessage", *["503", fault, fault])
    broker = open_broker(front.endpoint)
    broker.bell()
    with pytest.raises(BrokerUnavailable):
        broker.claim(["photos"], 10)
    publish(open_broker(), message())
    leases, told = worked(broker)
    assert len(leases) == 1
    assert front.given[-1] == ("ReceiveMessage", fault)
    assert settle(broker, leases[0], Ack()) == Applied()
    assert "hunter2" not in str(told)


@pytest.mark.parametrize("fault", ["500", "599", "garbage", "closed", "cut", "empty"])
def test_b16_a_poll_under_way_that_fails_rings_and_the_next_claim_says_why(
    open_broker: Open, front: Front, fault: str
) -> None:
    """Silence would look like an empty queue for ever."""
    publish(open_broker(), message())
    claim_one(open_broker())
    broker = open_broker(front.endpoint)
    broker.bell()
    assert broker.claim(["photos"], 10).leases == []
    until(lambda: front.seen.count("ReceiveMessage") == 2, "a look, and the poll that follows it")
    front.spoil("ReceiveMessage", fault)
    publish(open_broker(), message())
    (lease,), told = worked(broker)  # the poll that was under way brought it
    assert told == []
    assert settle(broker, lease, Ack()) == Applied()
    assert select.select([broker.bell()], [], [], HEAL_SECONDS)[0]  # the next one failed
    with pytest.raises(BrokerUnavailable, match="sqs://eu-west-1/"):
        broker.claim(["photos"], 10)
    publish(open_broker(), message())
    assert len(worked(broker)[0]) == 1


def unknown(answer: object, why: str = "") -> bool:
    """Whether an answer says that it is not known, and as the reason of it, `why`."""
    return isinstance(answer, Unknown) and "sqs://" in answer.why and why in answer.why


def deleted(broker: SqsBroker, queue: str, front: Front) -> None:
    """Delete a queue, as somebody does in the console: it cannot be made anew for a minute."""
    broker._client.delete_queue(QueueUrl=broker._queues.url(queue))
    front.deleted.add(broker._queues._address.prefix + queue)


@pytest.mark.parametrize("question", ["ListQueueTags", "ListQueues"])
def test_what_a_poll_brought_is_granted_after_a_claim_that_failed_before_it(
    open_broker: Open, front: Front, question: str
) -> None:
    """It would be hidden from everybody for half a minute, and charged a loss."""
    clock = ManualClock()
    publish(open_broker(), message())
    claim_one(open_broker())
    broker = open_broker(front.endpoint, clock)
    clock.advance(296_000)  # from 300 s on, a claim asks what queues there are
    broker.bell()
    assert broker.claim(["photos"], 10).leases == []
    until(lambda: front.seen.count("ReceiveMessage") == 2, "a look, and the poll that follows it")
    publish(open_broker(), message())
    assert select.select([broker.bell()], [], [], HEAL_SECONDS)[0]
    clock.advance(6_000)  # 5 s after it looked, it asks anew what is paused
    front.spoil(question, "503")
    with pytest.raises(BrokerUnavailable):
        broker.claim(["photos"], 10)
    (lease,) = broker.claim(["photos"], 10).leases
    assert lease.lost == 0


@pytest.mark.parametrize("way", ["brought by a poll", "received at once"])
@pytest.mark.parametrize("fault", ["403", "429", "503", "closed", LOST])
def test_what_could_not_be_hidden_is_told_and_sent_anew_uncounted(
    open_broker: Open, front: Front, fault: str, way: str
) -> None:
    """Without a word, a worker that may not hide messages would look idle for ever."""
    publish(open_broker(), message())
    claim_one(open_broker())
    broker, job = open_broker(front.endpoint), message(visibility_timeout_ms=20_000)
    if way == "brought by a poll":
        broker.bell()
        assert broker.claim(["photos"], 10).leases == []
        until(lambda: front.seen.count("ReceiveMessage") == 2, "a look, and the poll after it")
    publish(open_broker(), job)
    front.spoil("ChangeMessageVisibilityBatch", fault)
    (lease,), told = worked(broker)
    assert len(told) == 1
    assert (lease.message.id, lease.lost) == (job.id, 0)
    assert settle(broker, lease, Ack()) == Applied()
    assert claim_all(open_broker()) == []


def test_a_queue_that_fails_while_another_yields_is_told_once_for_as_long_as_it_fails(
    open_broker: Open, front: Front
) -> None:
    """A worker that always has work from the other one would never say so."""
    broker = open_broker(front.endpoint)
    publish(open_broker(), *messages(30), *messages(30, "videos"))

    def leases(*faults: str) -> int:
        front.spoil("ReceiveMessage", *faults)
        return len(broker.claim(["photos", "videos"], 2).leases)

    for _ in range(2):
        assert leases("429") > 0
        with pytest.raises(BrokerUnavailable, match="ThrottlingException"):
            leases()
        assert leases("429") > 0
        assert leases("429") > 0
        assert leases() > 0


@pytest.mark.parametrize("fault", ["400", "403", "429"])
def test_a_publish_that_was_refused_as_a_whole_stored_nothing_and_says_so(
    open_broker: Open, front: Front, fault: str
) -> None:
    broker = open_broker(front.endpoint)
    broker.declare(["photos"])
    front.spoil("SendMessageBatch", fault)
    with pytest.raises(BrokerUnavailable):
        broker.publish(messages(3))
    assert claim_all(broker) == []


@pytest.mark.parametrize(
    ("code", "way"),
    [
        ("AccessDenied", "Permissions"),
        ("InvalidClientTokenId", "AWS_PROFILE"),
        ("UnrecognizedClientException", "AWS_PROFILE"),
        ("SignatureDoesNotMatch", "the secret key"),
        ("InvalidSignatureException", "the secret key"),
        ("InvalidSecurity", "https"),
    ],
)
def test_credentials_that_sqs_does_not_take_are_a_refusal_that_says_how_to_mend_it(
    open_broker: Open, front: Front, code: str, way: str
) -> None:
    broker = open_broker(front.endpoint)
    for action in ("GetQueueUrl", "SendMessageBatch", "ReceiveMessage"):
        front.spoil(action, code)
    with pytest.raises(BrokerRefused, match=f"{code} .403.: no: .*{way}"):
        broker.declare(["photos"])
    broker.declare(["photos"])
    with pytest.raises(BrokerRefused, match=code):
        broker.publish(messages(3))
    with pytest.raises(BrokerRefused, match=code):
        broker.claim(["photos"], 1)


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired"])
def test_credentials_that_expired_are_tried_again_as_boto3_renews_them(
    open_broker: Open, front: Front, code: str
) -> None:
    broker = open_broker(front.endpoint)
    front.spoil("GetQueueUrl", code)
    with pytest.raises(BrokerUnavailable, match=code):
        broker.declare(["photos"])
    broker.declare(["photos"])


@pytest.mark.parametrize("fault", ["500", "599", "garbage", "empty", "closed", "cut", LOST])
def test_a_publish_without_a_clear_answer_is_unknown(
    open_broker: Open, front: Front, fault: str
) -> None:
    broker = open_broker(front.endpoint)
    broker.declare(["photos"])
    front.spoil("SendMessageBatch", fault)
    batch = messages(3)
    assert broker.publish(batch) == [Unknown()] * 3
    assert len(claim_all(broker)) == (3 if fault == LOST else 0)
    assert broker.publish(batch) == [Stored()] * 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("400", "ThrottlingException (400)"),
        ("429", "ThrottlingException (429)"),
        ("throttled", "ThrottlingException: You have exceeded the rate"),
        ("AccessDenied", "AccessDenied (403): no: give it the rights of docs/sqs.md, Permissions"),
        ("bare", "no code"),
    ],
)
@pytest.mark.parametrize("verb", ["settle", "extend"])
def test_what_was_refused_says_why_and_can_be_sent_again(
    open_broker: Open, front: Front, verb: str, fault: str, why: str
) -> None:
    """Were it raised, the broker would be taken for away, and nothing would be renewed."""
    broker = open_broker(front.endpoint)
    publish(broker, message())
    lease = claim_one(broker)
    front.spoil("DeleteMessageBatch", fault)
    front.spoil("ChangeMessageVisibilityBatch", fault)
    if verb == "settle":
        assert unknown(settle(broker, lease, Ack()), why)
    else:
        assert unknown(broker.extend([lease])[0], why)
    if verb == "settle":
        assert settle(broker, lease, Ack()) == Applied()
        assert settle(broker, lease, Ack()) == Gone()
    else:
        assert isinstance(broker.extend([lease])[0], Held)


def test_what_was_refused_beside_what_was_done_is_unknown(open_broker: Open, front: Front) -> None:
    broker = open_broker(front.endpoint)
    publish(broker, message(), message())
    done, failed = (Settlement(one, Ack()) for one in claim_all(broker))
    failed = Settlement(failed.lease, Nack(0, ERROR))
    front.spoil("SendMessageBatch", "429")
    applied, refused = broker.settle([done, failed])
    assert applied == Applied()
    assert unknown(refused, "ThrottlingException")
    assert broker.settle([failed]) == [Applied()]


@pytest.mark.parametrize("beside", [True, False])
def test_a_dead_letter_queue_that_is_deleted_in_use_is_made_anew_at_the_next_call(
    open_broker: Open, *, beside: bool
) -> None:
    broker = open_broker()
    publish(broker, message(), message())
    first, second = claim_all(broker)
    dead = Settlement(first, DeadLetter("max_attempts", ERROR))
    assert settle(broker, second, DeadLetter("max_attempts", ERROR)) == Applied()
    broker._client.delete_queue(QueueUrl=broker._queues.url("photos--dead"))
    if beside:
        publish(broker, message())
        ack = Settlement(claim_one(broker), Ack())
        applied, missing = broker.settle([ack, dead])
        assert applied == Applied()
    else:
        (missing,) = broker.settle([dead])
    assert unknown(missing, "does not exist")
    assert broker.settle([dead]) == [Applied()]
    (counts,) = broker.inspector().queues()
    assert (counts.ready, counts.in_flight, counts.dead) == (0, 0, 1)


@pytest.mark.parametrize("fault", ["503", "garbage", "closed", LOST])
def test_an_ack_without_a_clear_answer_is_unknown_and_can_be_sent_again(
    open_broker: Open, front: Front, fault: str
) -> None:
    """It ends as done or delivered again, and never as done and delivered again."""
    broker = open_broker(front.endpoint)
    publish(broker, message())
    lease = claim_one(broker)
    front.spoil("DeleteMessageBatch", fault)
    assert unknown(settle(broker, lease, Ack()))
    assert settle(broker, lease, Ack()) == Applied()
    assert settle(broker, lease, Ack()) == Gone()


@pytest.mark.parametrize("action", ["SendMessageBatch", "DeleteMessageBatch"])
@pytest.mark.parametrize("fault", ["429", "closed"])
def test_a_retry_that_broke_in_the_middle_is_one_copy_when_it_is_made_again(
    open_broker: Open, front: Front, action: str, fault: str
) -> None:
    """What was sent is not sent twice, and what was not sent is not deleted."""
    broker = open_broker(front.endpoint)
    publish(broker, message())
    lease = claim_one(broker)
    front.spoil(action, fault)
    failed = [Settlement(lease, Nack(0, ERROR))]
    assert unknown(broker.settle(failed)[0], "ThrottlingException" if fault == "429" else "")
    assert broker.settle(failed) == [Applied()]
    assert [one.failures for one in claim_all(broker)] == [1]
    assert broker.settle(failed) == [Stale()]


def test_an_extension_without_an_answer_is_unknown(open_broker: Open, front: Front) -> None:
    broker = open_broker(front.endpoint)
    publish(broker, message())
    lease = claim_one(broker)
    front.spoil("ChangeMessageVisibilityBatch", "503", "garbage")
    assert unknown(broker.extend([lease])[0])
    assert unknown(broker.extend([lease])[0])
    assert isinstance(broker.extend([lease])[0], Held)


def test_leases_are_renewed_in_time_when_copies_past_twelve_hours_are_not_met(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = open_broker(front.endpoint)
    publish(broker, *messages(2))
    leases = claim_all(broker)
    monkeypatch.setattr("dibs.brokers.sqs.broker.CEILING_SECONDS", 1)  # not twelve hours
    front.spoil("ReceiveMessage", SILENT, SILENT)
    assert all(isinstance(answer, Held) for answer in broker.extend(leases))


@pytest.mark.parametrize("verb", ["declare", "publish", "claim", "settle", "extend", "queues"])
def test_rule_26_a_call_ends_in_time_when_no_answer_comes(
    open_broker: Open, front: Front, verb: str
) -> None:
    """Black-holed: the connection is there, and nothing ever comes back."""
    broker = open_broker(front.endpoint)
    publish(broker, *messages(30))
    leases = claim_all(broker)[:12]
    front.all_silent.set()
    began = time.monotonic()
    if verb == "publish":
        assert broker.publish(messages(25)) == [Unknown()] * 25
    elif verb == "settle":
        ends = [Settlement(one, Ack()) for one in leases[:6]]
        ends += [Settlement(one, Nack(0, ERROR)) for one in leases[6:]]
        assert all(map(unknown, broker.settle(ends)))
    elif verb == "extend":
        assert all(map(unknown, broker.extend(leases)))
    else:
        calls = {
            "declare": lambda: broker.declare(["photos", "new"]),
            "claim": lambda: broker.claim(["photos"], 100),
            "queues": broker.inspector().queues,
        }
        with pytest.raises(BrokerUnavailable):
            calls[verb]()
    assert time.monotonic() - began < LONGEST_CALL_SECONDS
    front.all_silent.clear()


def test_rule_26_a_server_that_is_not_there_is_told_at_once(open_broker: Open) -> None:
    broker = open_broker("http://127.0.0.1:9")
    assert not broker.created
    for call in (lambda: broker.declare(["photos"]), lambda: broker.claim(["photos"], 1)):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="EndpointConnectionError"):
            call()
        assert time.monotonic() - began < LONGEST_CALL_SECONDS


def test_one_silent_request_does_not_stop_the_others(open_broker: Open, front: Front) -> None:
    broker = open_broker(front.endpoint)
    publish(broker, *messages(20))
    leases = claim_all(broker)
    front.spoil("DeleteMessageBatch", SILENT)
    answers = broker.settle([Settlement(one, Ack()) for one in leases])
    assert (answers.count(Applied()), sum(map(unknown, answers))) == (10, 10)


def test_where_nobody_is_there_nothing_is_renewed_and_it_is_told_by_an_error(
    open_broker: Open, front: Front
) -> None:
    """Everything else would fail as well, and people are told once."""
    broker = open_broker(front.endpoint)
    publish(broker, message())
    lease = claim_one(broker)
    front.close()
    for call in (lambda: settle(broker, lease, Ack()), lambda: broker.extend([lease])):
        with pytest.raises(BrokerUnavailable, match="EndpointConnectionError"):
            call()


def test_b17_a_publish_to_a_queue_that_somebody_deleted_says_so_until_it_can_be_made_anew(
    open_broker: Open, front: Front
) -> None:
    """SQS lets nobody make it for a minute: nothing is called stored in the meantime."""
    broker = open_broker(front.endpoint)
    publish(broker, *messages(2))
    deleted(broker, "photos", front)
    with pytest.raises(BrokerUnavailable, match="does not exist"):
        broker.publish(messages(3))
    with pytest.raises(BrokerUnavailable, match=DELETED):
        broker.publish(messages(3))
    assert broker.publish(messages(2, "videos")) == [Stored()] * 2
    front.deleted.clear()
    assert broker.publish(messages(3)) == [Stored()] * 3
    assert len(claim_all(broker)) == 3


def test_b17_what_cannot_be_settled_as_its_queue_was_deleted_holds_up_nothing_else(
    open_broker: Open, front: Front
) -> None:
    """Neither acknowledgements nor renewals; and it is settled once the queue is there."""
    broker = open_broker(front.endpoint)
    publish(broker, *messages(4))
    settle(broker, claim_one(broker), DeadLetter("max_attempts", ERROR))
    first, second, third = claim_all(broker)
    dead = Settlement(third, DeadLetter("max_attempts", ERROR))
    deleted(broker, "photos--dead", front)
    assert unknown(broker.settle([dead])[0], "does not exist")
    missing, applied = broker.settle([dead, Settlement(first, Ack())])
    assert unknown(missing, DELETED)
    assert applied == Applied()
    assert isinstance(broker.extend([second])[0], Held)
    front.deleted.clear()
    assert broker.settle([dead, Settlement(second, Ack())]) == [Applied()] * 2


@pytest.mark.parametrize("asked", ["GetQueueUrl", "ListQueueTags"])
def test_a_right_that_is_lacking_is_refused_whatever_was_asked_before_it(
    open_broker: Open, front: Front, asked: str
) -> None:
    """The first look at a queue is several requests, and none of them is a repetition."""
    open_broker().declare(["photos"])
    front.spoil(asked, "AccessDenied")
    with pytest.raises(BrokerRefused, match="give it the rights"):
        open_broker(front.endpoint).claim(["photos"], 10)


def test_b17_a_queue_that_was_deleted_is_in_no_other_queues_way(
    open_broker: Open, front: Front
) -> None:
    """A worker of both goes on renewing, settling and claiming; and is told once."""
    broker = open_broker(front.endpoint)
    both = ["photos", "videos"]
    publish(broker, *messages(2), *messages(1, "videos"))
    leases = broker.claim(both, 10).leases
    (gone,) = (one for one in leases if one.message.queue == "videos")
    ours, done = (one for one in leases if one is not gone)
    deleted(broker, "videos", front)
    assert [type(answer) for answer in broker.extend([gone, ours])] == [Unknown, Held]
    front.seen.clear()
    missing, held = broker.extend([gone, ours])
    assert unknown(missing, DELETED)
    assert isinstance(held, Held)
    missing, applied = broker.settle([Settlement(one, Ack()) for one in (gone, done)])
    assert unknown(missing, DELETED)
    assert applied == Applied()
    assert front.seen.count("GetQueueUrl") == 2, "only the missing one is asked for again"
    publish(broker, *messages(18))
    told: list[BrokerError] = []
    for _ in range(10):
        try:
            assert len(broker.claim(both, 2).leases) == 2
        except BrokerUnavailable as error:
            told.append(error)
    assert [DELETED in str(error) for error in told] == [True]
    empty = broker.claim(both, 1)
    assert empty.leases == []
    assert not empty.sure, "nobody knows what is in the other one"
    with pytest.raises(BrokerUnavailable, match=DELETED):
        broker.claim(["videos"], 1)
    front.deleted.clear()
    publish(open_broker(), message("videos"))
    assert [one.message.queue for one in broker.claim(both, 10).leases] == ["videos"]


@pytest.mark.parametrize(("fault", "lost"), [("gone", 1), ("expired", 1), ("too long", 0)])
def test_a_lease_whose_message_is_gone_is_lost(
    open_broker: Open, front: Front, fault: str, lost: int
) -> None:
    """Purged or deleted by hand: Amazon calls its receipt, which is well-formed, a wrong value."""
    broker = open_broker(front.endpoint)
    publish(broker, message())
    lease = claim_one(broker)
    front.spoil("ChangeMessageVisibilityBatch", fault)
    (answer,) = broker.extend([lease])
    assert answer == Lost() if lost else unknown(answer, "beyond the limit")
    assert isinstance(broker.extend([lease])[0], Held)


@pytest.mark.parametrize(("fault", "copies"), [("gone", 0), ("expired", 0), ("too long", 1)])
def test_what_is_gone_before_it_could_be_granted_is_not_sent_anew(
    open_broker: Open, front: Front, fault: str, copies: int
) -> None:
    """It would run once more after it was purged, or acknowledged by another."""
    broker = open_broker(front.endpoint)
    publish(broker, message(visibility_timeout_ms=20_000))
    front.spoil("ChangeMessageVisibilityBatch", fault)
    sent = front.seen.count("SendMessageBatch")
    try:
        assert broker.claim(["photos"], 10).leases == []
    except BrokerUnavailable:
        assert copies == 1
    assert front.seen.count("SendMessageBatch") - sent == copies
