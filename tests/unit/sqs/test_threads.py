"""Threads that call and poll: what becomes of it when there is none, and when one is late."""

import select
import threading
from collections.abc import Callable, Iterator
from math import inf
from queue import SimpleQueue

import pytest

from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.wires.aws.calls import Calls, NotCalled
from dibs.wires.aws.polls import Polls
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
    made = Polls(source.poll, source.given_back.extend, SystemClock())
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
