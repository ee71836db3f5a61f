"""The time of a call: enough of it is left for what was found, whoever else is silent."""

import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dibs.brokers.contract import CALL_LIMIT_SECONDS
from dibs.brokers.sqs import SqsBroker
from dibs.errors import BrokerUnavailable
from dibs.testing.clock import ManualClock
from dibs.testing.making import claim_one, ids, message, messages, publish
from tests.servers.sqs import Server
from tests.servers.sqs_faults import SILENT, Front
from tests.unit.sqs.conftest import Open
from tests.unit.sqs.test_trouble import worked
from tests.worker.workers import until

HEAL_SECONDS = 10.0
BOTH = ["photos", "videos"]


def hurried(open_broker: Open, front: Front, seconds: int) -> SqsBroker:
    """Return a worker's broker that has had a lease of six times so long as its calls may take."""
    broker = open_broker(front.endpoint)
    publish(broker, message(visibility_timeout_ms=6_000 * seconds))
    claim_one(broker)
    broker.bell()
    return broker


def beside(open_broker: Open, front: Front) -> tuple[SqsBroker, SqsBroker]:
    """Return a worker's broker that knows the places of two queues, and one of another."""
    other = open_broker()
    other.declare(BOTH)
    broker = hurried(open_broker, front, 3)
    broker._queues.places(BOTH, broker._calls.until())
    return broker, other


def brought(broker: SqsBroker, front: Front, other: SqsBroker) -> list[bytes]:
    """Have a poll bring a job that is not taken yet; return its id."""
    assert broker.claim(["photos"], 10).leases == []
    until(lambda: front.seen.count("ReceiveMessage") == 3, "two looks, and the poll after them")
    job = message(visibility_timeout_ms=18_000)
    publish(other, job)
    assert select.select([broker.bell()], [], [], HEAL_SECONDS)[0]
    return [job.id]


@pytest.mark.parametrize("silent", ["ReceiveMessage", "ListQueueTags"])
def test_what_a_poll_brought_is_granted_in_time_while_another_queue_is_silent(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """The wait for the other one took all the time: it was not hidden, and charged a loss."""
    monkeypatch.setattr("dibs.wires.aws.polls.KEPT_SECONDS", HEAL_SECONDS)
    broker, other = beside(open_broker, front)
    job = brought(broker, front, other)
    front.spoil(silent, SILENT)
    assert ids(broker.claim(BOTH, 10).leases) == job
    assert front.given == [(silent, SILENT)]


def test_what_a_poll_brought_of_a_queue_paused_since_is_sent_anew_while_another_is_silent(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dibs.wires.aws.polls.KEPT_SECONDS", HEAL_SECONDS)
    broker, other = beside(open_broker, front)
    job = brought(broker, front, other)
    other.inspector().pause("photos")
    broker._queues._open_until.clear()  # as 5 s later
    front.spoil("ReceiveMessage", SILENT)
    with pytest.raises(BrokerUnavailable):
        broker.claim(BOTH, 10)
    other.inspector().resume("photos")
    (lease,), _ = worked(broker)
    assert ([lease.message.id], lease.lost) == (job, 0)


def test_what_nobody_says_is_hidden_is_sent_anew_in_time(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for that took all the time: it was charged a loss."""
    monkeypatch.setattr("dibs.wires.aws.polls.KEPT_SECONDS", HEAL_SECONDS)
    broker = hurried(open_broker, front, 3)
    job = brought(broker, front, open_broker())
    front.spoil("ChangeMessageVisibilityBatch", SILENT)
    with pytest.raises(BrokerUnavailable):
        broker.claim(["photos"], 10)
    (lease,), _ = worked(broker)
    assert ([lease.message.id], lease.lost) == (job, 0)


def slow(clock: ManualClock, verb: Callable[..., Any], ms: int) -> Callable[..., Any]:
    """Have a request take some time, by a test's clock."""

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = verb(*args, **kwargs)
        clock.advance(ms)
        return answer

    return call


@pytest.mark.parametrize(("ms", "found"), [(1_100, 20), (1_200, 10)])
def test_a_claim_looks_once_more_only_if_half_of_its_time_is_enough_for_that(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch, ms: int, found: int
) -> None:
    """What is received too late is hidden from everybody, and charged a loss."""
    clock = ManualClock()
    broker = open_broker(front.endpoint, clock)
    publish(broker, *messages(20))
    broker.claim(["videos"], 1)
    verb = slow(clock, broker._client.receive_message, ms)
    monkeypatch.setattr(broker._client, "receive_message", verb)
    assert len(broker.claim(["photos"], 20).leases) == found
    assert len(broker.claim(["photos"], 20).leases) == 20 - found, "and nothing is told"


def test_a_claim_that_looked_no_further_for_lack_of_time_is_not_sure_that_nothing_is_there(
    open_broker: Open, front: Front, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It met nothing but what waits on: of what is behind that it knows nothing."""
    clock = ManualClock()
    server.follow(clock)
    broker = open_broker(front.endpoint, clock)
    publish(broker, *messages(20, due_ms=clock.wall_ms() + 3_600_000))
    broker.claim(["videos"], 1)
    clock.advance(900_000)
    server.follow(clock)
    verb = slow(clock, broker._client.receive_message, 1_200)
    monkeypatch.setattr(broker._client, "receive_message", verb)
    claim = broker.claim(["photos"], 20)
    assert claim.leases == []
    assert not claim.sure


def test_what_a_receive_brings_too_late_is_sent_anew(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it any more: it was hidden from everybody, and charged a loss."""
    broker, other, go = hurried(open_broker, front, 1), open_broker(), threading.Event()
    receive = broker._client.receive_message

    def held_up(**asked: Any) -> Any:
        answer = receive(**asked)
        go.wait(HEAL_SECONDS)
        return answer

    job = message()
    publish(other, job)
    broker._rung = False  # no poll of its own takes what is sent anew
    monkeypatch.setattr(broker._client, "receive_message", held_up)
    with pytest.raises(BrokerUnavailable, match="no answer came in time"):
        broker.claim(["photos"], 10)
    go.set()
    (lease,), _ = worked(other)
    assert (lease.message.id, lease.lost) == (job.id, 0)


def test_no_receive_leaves_when_nobody_would_wait_for_its_answer(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of its queue, which had been deleted, took all the time."""
    clock = ManualClock()
    broker = open_broker(front.endpoint, clock)
    publish(broker, message())
    assert broker.claim(["photos"], 10).leases
    front.seen.clear()
    broker._queues._urls.clear()
    verb = slow(clock, broker._client.get_queue_url, 2_000)
    monkeypatch.setattr(broker._client, "get_queue_url", verb)
    with pytest.raises(BrokerUnavailable, match="the time was over before it could be sent"):
        broker.claim(["photos"], 10)
    assert list(front.seen) == ["GetQueueUrl"]


def test_what_came_unwanted_is_given_back_within_a_sixth_of_the_shortest_lease(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stops renews its leases in between: they were over by then."""
    monkeypatch.setattr("dibs.wires.aws.polls.KEPT_SECONDS", HEAL_SECONDS)
    broker = hurried(open_broker, front, 1)
    brought(broker, front, open_broker())
    front.spoil("SendMessageBatch", SILENT)
    began = time.monotonic()
    broker.claim(["photos"], 0)
    assert time.monotonic() - began < 1.5
    assert front.given == [("SendMessageBatch", SILENT)]


@pytest.mark.parametrize("way", ["its tag is asked for", "it was paused"])
def test_a_queue_at_which_no_receive_waits_yet_is_not_known_to_be_empty(
    open_broker: Open, front: Front, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A drain ended a second after a poll was wanted, whether it looked or not."""
    monkeypatch.setattr("dibs.wires.aws.receives.WATCH_SECONDS", HEAL_SECONDS)
    clock = ManualClock()
    broker, other = open_broker(front.endpoint, clock), open_broker()
    assert broker.claim(["photos"], 10).leases == []
    if way == "it was paused":
        other.inspector().pause("photos")  # which is seen by polls, and 5 s later by claims
    else:
        front.spoil("ListQueueTags", SILENT)
    broker.bell()
    assert not broker.claim(["photos"], 10).sure
    until(lambda: front.seen.count("ListQueueTags") == 2, "the poll asks first whether to look")
    if way == "it was paused":
        now = clock.boot_ms() / 1_000
        until(lambda: broker._queues._open_until["photos"] == now, "it knows that it shall not")
        other.inspector().resume("photos")
    clock.advance(1_000)
    assert not broker.claim(["photos"], 10).sure


def test_a_queue_at_which_a_receive_has_waited_for_a_second_is_known_to_be_empty(
    open_broker: Open, front: Front
) -> None:
    clock = ManualClock()
    broker = open_broker(front.endpoint, clock)
    broker.bell()
    assert not broker.claim(["photos"], 10).sure
    until(lambda: front.seen.count("ReceiveMessage") == 2, "a look, and the poll that follows it")
    assert not broker.claim(["photos"], 10).sure
    clock.advance(1_000)
    assert broker.claim(["photos"], 10).sure


@pytest.mark.parametrize("verb", ["queues", "findings", "resume"])
def test_rule_26_the_questions_of_an_inspector_have_one_limit_together(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Each had 4.5 s of its own."""
    clock = ManualClock()
    broker = open_broker(clock=clock)
    broker.declare(["photos"])
    ask, ends = broker._calls.all, list[float]()

    def slow_ask(calls: Sequence[Any], until: float) -> list[Any]:
        clock.advance(2_000)
        ends.append(until)
        return ask(calls, until)

    monkeypatch.setattr(broker._calls, "all", slow_ask)
    over = broker._calls.now() + CALL_LIMIT_SECONDS
    calls: dict[str, Callable[[], object]] = {
        "queues": broker.inspector().queues,
        "findings": broker.inspector().findings,
        "resume": lambda: broker.inspector().resume("photos"),
    }
    try:
        calls[verb]()
    except BrokerUnavailable:
        assert verb == "queues", "its third question came too late"
    assert len(ends) >= 2
    assert max(ends) <= over
