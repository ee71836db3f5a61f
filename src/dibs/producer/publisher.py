"""The thread that publishes for those who must not wait, or who work meanwhile.

Owns: the thread, the futures that event loops wait for, and the stream of one caller's batches.
Must never: hold up an event loop: its futures are resolved a few at a time.
Called by: `Producer`, for `aenqueue` and `enqueue_many`.
"""

import threading
from asyncio import AbstractEventLoop, Future, get_running_loop
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from operator import eq
from queue import Empty, SimpleQueue

from dibs.alike import ids_of
from dibs.errors import BrokerError, DibsError
from dibs.message import Message
from dibs.producer.door import Door
from dibs.producer.handle import Verdict, own

Answer = tuple["Future[bytes]", Verdict]

ASYNC_BATCH = 250
"""How many coroutines share a trip to the broker: more gain little, and all wait for the last."""

RESOLVED_AT_ONCE = 50
"""How many coroutines an event loop resumes in one turn: what else it runs waits for them."""

ON_THE_WAY = 2
"""How many batches of a stream may be unfinished: one being stored, one ready to follow it."""

JOIN_SECONDS = 20.0
"""How long the end of a process waits for what is being stored; every broker call is bounded."""


class Publisher:
    """A thread that goes through the door for others, in the order in which they asked."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._asked: deque[tuple[Message, Future[bytes]]] = deque()
        self._called = False
        self._answering: Answering | None = None
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="dibs-publisher", daemon=True)
        self._thread.start()

    def publish(self, message: Message) -> "Future[bytes]":
        """Return what the running event loop waits for until `message` is stored.

        Not to be called once it is to stop.
        """
        future: Future[bytes] = get_running_loop().create_future()
        self._asked.append((message, future))
        if not self._called:
            self._called = True
            self._calls.put(self._publish_asked)
        return future

    def stream(self) -> "Stream":
        """Return a way for one caller's batches."""
        return Stream(self._door, self._call)

    def stop(self) -> None:
        """End the thread when all that was asked for is done; a stream goes on without it."""
        self._ended = True
        self._calls.put(_look_up)
        self._thread.join(JOIN_SECONDS)

    def _call(self, work: Callable[[], None]) -> None:
        """Have the thread do something; once it has ended, do it here."""
        self._calls.put(work)
        if self._ended:
            self._thread.join()  # what came before is done first
            self._do_rest()

    def _do_rest(self) -> None:
        with suppress(Empty):
            while True:
                self._calls.get_nowait()()

    def _run(self) -> None:
        while not self._ended:
            self._calls.get()()
        self._do_rest()
        while self._asked:  # what was asked for before the end is on its way
            self._publish_asked()

    def _publish_asked(self) -> None:
        self._called = False
        count = min(len(self._asked), ASYNC_BATCH)
        batch = [self._asked.popleft() for _ in range(count)]
        if self._asked and not self._called:
            self._called = True
            self._calls.put(self._publish_asked)
        verdicts: Sequence[Verdict]
        try:
            verdicts = self._door.publish_batch([message for message, _ in batch])
        except DibsError as error:
            verdicts = [error] * count
        except Exception as error:  # whoever waits must be told, and this thread must live on
            verdicts = [BrokerError(f"nothing was stored: {error!r}")] * count
        by_loop: dict[AbstractEventLoop, list[Answer]] = {}
        for (_, future), verdict in zip(batch, verdicts, strict=True):
            by_loop.setdefault(future.get_loop(), []).append((future, verdict))
        for loop, answers in by_loop.items():
            if self._answering is None or self._answering.loop is not loop:
                self._answering = Answering(loop)  # a program has one loop at a time, mostly
            self._answering.send(answers)


def _look_up() -> None:
    """What the thread is called for when all that it should see is that it is to end."""


class Answering:
    """The answers on their way to the futures of one event loop, whatever batches they are of."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self._answers: deque[Answer] = deque()
        self._called = False

    def send(self, answers: Iterable[Answer]) -> None:
        """Have futures of the loop resolved, by its own thread."""
        self._answers += answers
        if not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._called = False  # what comes from here on may not be seen below, and calls again
        for _ in range(min(len(self._answers), RESOLVED_AT_ONCE)):
            future, verdict = self._answers.popleft()
            if not future.done():  # a wait can be cancelled; what was stored stays stored
                if isinstance(verdict, bytes):
                    future.set_result(verdict)
                else:
                    future.set_exception(own(verdict))
        if self._answers and not self._called:
            self._called = True
            self.loop.call_soon(self._resolve)


class Batch:
    """Messages on their way, and in the end what became of them."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.new = 0
        """How many of them are jobs that there were not before."""
        self.error: BaseException | None = None
        """Why not all of them are stored."""
        self._done = threading.Lock()
        self._done.acquire()

    def answer(self, verdicts: list[Verdict]) -> None:
        """Note what became of each message."""
        ids = ids_of(self.messages)
        if verdicts == ids:  # by far the most, and a hundredth of the cost of looking at each
            self.new = len(verdicts)
            return
        self.new = sum(map(eq, ids, verdicts))
        self.error = next((found for found in verdicts if isinstance(found, DibsError)), None)

    def settle(self) -> None:
        """Say that no more will happen to it."""
        self._done.release()

    def wait(self) -> None:
        """Wait until no more will happen to it."""
        self._done.acquire()


class Stream:
    """The batches of one caller, stored in order; after the first that fails, none is.

    Attributes:
        stored: how many jobs are new, of the batches that were waited for.
        error: of the first batch that failed.
    """

    def __init__(self, door: Door, call: Callable[[Callable[[], None]], None]) -> None:
        self.stored = 0
        self._door = door
        self._call = call
        self._batches: deque[Batch] = deque()
        self.error: BaseException | None = None

    def send(self, messages: Sequence[Message]) -> None:
        """Send a batch; wait for an earlier one if too many are unfinished, and raise its error."""
        batch = Batch(messages)
        self._call(partial(self._store, batch))
        self._batches.append(batch)  # not before: interrupted between, it would be waited for
        if len(self._batches) > ON_THE_WAY:
            self._wait_for_one()

    def finish(self) -> None:
        """Wait for all that was sent, and raise the first error."""
        while self._batches:
            self._wait_for_one()

    def abandon(self) -> None:
        """Wait for all that was sent, whatever becomes of it."""
        while self._batches:
            try:
                self._wait_for_one()
            except DibsError:
                continue  # the first error is what the caller is told

    def _wait_for_one(self) -> None:
        batch = self._batches.popleft()
        batch.wait()
        self.stored += batch.new
        if batch.error is not None:
            raise batch.error

    def _store(self, batch: Batch) -> None:
        try:
            if self.error is None:
                batch.answer(self._door.publish_batch(batch.messages))
        except BaseException as error:
            batch.error = error
        finally:
            self.error = self.error or batch.error
            batch.settle()
