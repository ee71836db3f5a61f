"""Threads that call and poll: what becomes of it when there is none, and when one is late."""

import select
import threading
from collections.abc import Callable, Iterator
from math import inf
from queue import SimpleQueue

import pytest

from dibs.brokers.sqs import open_sqs
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.message import Ack
from dibs.testing.clock import ManualClock
from dibs.testing.making import claim_one, message, publish, settle
from dibs.wires.aws.calls import THREADS, Calls, NotAnswered, NotCalled, in_time
from dibs.wires.aws.polls import Polls
from tests.residue import leaves_nothing
from tests.servers.sqs import Server
from tests.servers.sqs_faults import Front
from tests.unit.sqs.conftest import Open
from tests.worker.workers import until

SECONDS = 10.0


class Source:
    """What polls wait for: `begun` has the queue of each poll, `bring` ends one."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[str] = SimpleQueue()
        self._found: SimpleQueue[list[str]] = SimpleQueue()
        self.given_back: list[str] = []

    def poll(self, queue: str, most: int) -> list[str]:
        del most
        self.begun.put(queue)
        return self._found.get()

    def bring(self, *found: str) -> None:
        self._found.put(list(found))


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def polls(source: Source) -> Iterator[Polls[str]]:
    made = Polls(source.poll, source.given_back.extend, lambda _: 0.0)
    yield made
    made.close()
    source.bring()


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let no thread start, until this is called."""

    def start(self: threading.Thread) -> None:
        del self
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    return monkeypatch.undo


def one() -> int:
    return 1


def test_calls_are_made_again_once_a_thread_can_be_started(no_threads: Callable[[], None]) -> None:
    """A thread that never ran was counted for good: no call was ever made again."""
    calls = Calls(SystemClock())
    for _ in range(3):
        (answer,) = calls.all([(one, inf)], calls.until(SECONDS))
        assert isinstance(answer, NotCalled)
        assert "no thread" in str(answer)
    no_threads()
    assert calls.all([(one, inf)] * 3, calls.until(SECONDS)) == [1, 1, 1]


def test_calls_are_made_by_the_threads_that_there_are(request: pytest.FixtureRequest) -> None:
    calls = Calls(SystemClock())
    assert calls.all([(one, inf)], calls.until(SECONDS)) == [1]
    request.getfixturevalue("no_threads")
    assert calls.all([(one, inf)] * 3, calls.until(SECONDS)) == [1, 1, 1]


def test_what_a_call_sends_goes_out_in_its_time_only() -> None:
    """By this a client's own repetitions end: what was sent before may have been done."""
    clock = ManualClock()
    calls = Calls(clock)
    before = calls.now() + 1

    def sends(first_after_ms: int, again_after_ms: int) -> Callable[[], int]:
        def call() -> int:
            clock.advance(first_after_ms)
            in_time()
            clock.advance(again_after_ms)
            in_time()
            return 1

        return call

    (late,) = calls.all([(sends(0, 1_000), before)], calls.until(SECONDS))
    assert isinstance(late, NotAnswered)
    (uncalled,) = calls.all([(sends(500, 500), calls.now() + 0.5)], calls.until(SECONDS))
    assert isinstance(uncalled, NotCalled)
    assert calls.all([(sends(500, 499), calls.now() + 1)], calls.until(SECONDS)) == [1]
    in_time()  # this thread makes no call


def our_threads() -> int:
    """Return how many threads of ours there are."""
    return sum(one.name.startswith("dibs-") for one in threading.enumerate())


def test_b12_losing_the_connection_again_and_again_leaves_nothing_behind(
    open_broker: Open, front: Front
) -> None:
    """celery 10277: each reconnect leaked."""
    broker = open_broker(front.endpoint)
    publish(broker, message())
    claim_one(broker)

    def once() -> None:
        front.spoil("ReceiveMessage", "closed")
        with pytest.raises(BrokerUnavailable):
            broker.claim(["photos"], 1)
        assert broker.claim(["photos"], 1).leases == []

    leaves_nothing(once, 200)  # each takes some requests, on connections of a pool
    # Those of other tests' brokers go by themselves.
    until(lambda: our_threads() <= THREADS, "there are no more threads than calls at once")


def test_b12_opening_and_closing_again_and_again_leaves_nothing_behind(
    open_broker: Open, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one client of one's own: neither threads, nor what hangs on the client."""
    monkeypatch.setattr("dibs.wires.aws.calls.IDLE_SECONDS", 0.01)
    client, prefix = open_broker()._client, server.new_prefix()
    threads = our_threads()

    def once() -> None:
        broker = open_sqs(client, prefix, clock=SystemClock())
        broker.bell()
        publish(broker, message())
        (lease,) = broker.claim(["photos"], 1).leases
        settle(broker, lease, Ack())
        broker.close()

    leaves_nothing(once, 200)  # each takes six requests
    until(lambda: our_threads() <= threads, "threads are left")


def test_a_queue_that_no_thread_waits_for_is_told_and_waited_for_as_soon_as_one_can(
    source: Source, polls: Polls[str], no_threads: Callable[[], None]
) -> None:
    polls.want(["photos"], 1)
    with pytest.raises(BrokerUnavailable, match=r"photos.*can't start new thread"):
        polls.take(["photos"], 1)
    assert not polls.waits("photos")
    no_threads()
    polls.want(["photos"], 1)
    assert source.begun.get(timeout=SECONDS) == "photos"
    source.bring("a")
    assert select.select([polls.bell()], [], [], SECONDS)[0]
    assert polls.take(["photos"], 1) == ["a"]


def test_what_came_while_nobody_wanted_it_rings_as_soon_as_it_is_wanted(
    source: Source, polls: Polls[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lie there under a new poll of 20 s until the waiter looks by itself."""
    monkeypatch.setattr("dibs.wires.aws.polls.KEPT_SECONDS", SECONDS)
    polls.want(["photos"], 1)
    assert source.begun.get(timeout=SECONDS) == "photos"
    polls.want([], 0)
    assert polls.take(["photos"], 1) == []
    source.bring("a")
    until(lambda: polls.ready(["photos"]) == ["photos"], "it is there")
    assert not select.select([polls.bell()], [], [], 0)[0]
    polls.want(["photos"], 1)
    assert select.select([polls.bell()], [], [], 0)[0]
    assert polls.take(["photos"], 1) == ["a"]
    assert source.given_back == []
