"""Calls of a client that blocks: several at once, and all of them over in time.

Owns: a few threads, the moment after which nobody waits for an answer any more, and the clock that
all moments here are on: it counts the time asleep, since what a server hides comes back meanwhile.
Must never: hold up the end of a process, start a call whose time is over, or know a broker.
Called by: the batches and polls of SQS, whose client makes one request after the other.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from dibs.clock import Clock

T = TypeVar("T")
Timed = tuple[Callable[[], T], float]
"""A call, and the moment from which on nothing of it must be sent any more."""


class NotCalled(Exception):
    """The call could not be made, mostly as its time was over: it had no effect."""


class NotAnswered(Exception):
    """The call was made, and its answer did not come in time: nobody can tell."""


class _Current(threading.local):
    """The call that a thread makes; one that makes none of ours may send when it likes.

    A call may be several requests, and `attempts` are those of the last one.
    """

    of: "Calls | None" = None
    before = inf
    attempts = 0


_current = _Current()


def begins(**_: object) -> None:
    """Note that a request of this thread's call begins, whatever attempts it will take."""
    _current.attempts = 0


def in_time(**_: object) -> None:
    """Let an attempt of this thread's request go out: a client may make several of one.

    Raises:
        NotCalled: its time is over, and nothing of it was sent.
        NotAnswered: its time is over, but something was sent before.
    """
    if _current.of is not None and _current.of.now() >= _current.before:
        if _current.attempts:
            raise NotAnswered("the time was over before it could be sent again")
        raise NotCalled("the time was over before it could be sent")
    _current.attempts += 1


IDLE_SECONDS = 10.0
MOST_SECONDS = 4.5
THREADS = 10


class Calls:
    """Ten threads at the most, started as they are needed and gone soon after."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._asked: SimpleQueue[tuple[Future[Any], Timed[Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    def now(self) -> float:
        """Return the seconds since the machine started."""
        return self.clock.boot_ms() / 1_000

    def until(self, seconds: float = MOST_SECONDS) -> float:
        """Return when what begins now must be over."""
        return self.now() + seconds

    def half(self, until: float) -> float:
        """Return when half of the time that is left is over: the rest is for what follows."""
        return (self.now() + until) / 2

    def all(
        self,
        calls: Sequence[Timed[T]],
        until: float,
        late: Callable[[T], None] | None = None,
    ) -> list[T | Exception]:
        """Make calls at once; return what each returned or raised, at `until` at the latest.

        Any thread may ask, while another does. `late` is given what a call returns after that.
        """
        futures: list[Future[T]] = [Future() for _ in calls]
        for asked in zip(futures, calls, strict=True):
            self._asked.put(asked)
        why = "no thread could be started that sends it"
        if self._started(len(calls)):
            why = "the time was over before it could be sent"
            wait(futures, max(0.0, until - self.now()))
        answers = [_answer(future, why) for future in futures]
        if late is not None:
            for future, answer in zip(futures, answers, strict=True):
                if isinstance(answer, NotAnswered):
                    future.add_done_callback(partial(_came, late))
        return answers

    def _started(self, calls: int) -> bool:
        """Start the threads that so many calls need; return whether there is any."""
        with self._lock:
            while self._threads < min(calls + self._busy, THREADS):
                try:
                    threading.Thread(target=self._run, name="dibs-calls", daemon=True).start()
                except RuntimeError:  # the machine has no more: those that run make the calls
                    break
                self._threads += 1  # it waits for this lock before it takes itself away again
            return self._threads > 0

    def _run(self) -> None:
        while True:
            try:
                future, (call, before) = self._asked.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._asked.empty():  # whoever puts something there, then counts us
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._busy += 1
            self._do(future, call, before)
            with self._lock:
                self._busy -= 1

    def _do(self, future: "Future[T]", call: Callable[[], T], before: float) -> None:
        if self.now() >= before:
            future.cancel()
        _current.of, _current.before, _current.attempts = self, before, 0
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except Exception as error:  # whatever it is, whoever asked is told
                if _current.attempts > 1:  # the last says nothing of those before it
                    error = NotAnswered(f"{type(error).__name__}: {error}")
                future.set_exception(error)


def _came(late: Callable[[T], None], future: "Future[T]") -> None:
    if future.exception() is None:
        late(future.result())


def _answer(future: "Future[Any]", uncalled: str) -> Any:
    if future.cancel() or future.cancelled():
        return NotCalled(uncalled)
    if not future.done():
        return NotAnswered("no answer came in time")
    try:
        return future.result()
    except Exception as error:
        return error
