"""The producer's side of a process: one broker, shared by all who enqueue.

Owns: the address of the broker, the ids of messages, what callers are told, and what is done at a
fork and at the exit of the process.
Must never: say that a job is stored before the broker did.
Called by: `App` and its tasks.
"""

import atexit
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from dibs.brokers.contract import Broker, CallersConnection, Stored
from dibs.brokers.url import absolute, open_broker
from dibs.clock import Clock, Randomness
from dibs.errors import DibsError, EnqueueWhileImporting, OptionError
from dibs.message import Message, Result
from dibs.producer.door import Door
from dibs.producer.handle import Handle, own, verdict
from dibs.producer.ids import Ids
from dibs.text import counted

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from dibs.producer.publisher import Publisher
    from dibs.producer.watcher import Watcher

T = TypeVar("T")
DEFAULT_URL = "sqlite:///dibs.db"


class Producer:
    """Publishes the jobs of an app. Any thread and any event loop may use it.

    Attributes:
        clock: the clock that delays are counted from.
        ids: the source of ids of messages.
    """

    def __init__(self, url: str | None, clock: Clock, randomness: Randomness) -> None:
        self.clock = clock
        self.ids = Ids(clock, randomness)
        self._randomness = randomness
        self._given_url = url
        self._url: str | None = None
        self._handle = Handle(self._open)
        self._door = Door(self._handle)
        self._publisher: Publisher | None = None
        self._watcher: Watcher | None = None
        # The publisher and the watcher are made, asked and given up within it: two threads share
        # one, and none that was given up is asked. A signal's handler may enter it once more.
        self._helpers = threading.RLock()
        _producers.add(self)

    @property
    def url(self) -> str:
        """Where the broker is, from the first time that anyone asks; with its secrets."""
        if self._url is None:
            given = self._given_url
            self._url = absolute(
                os.environ.get("DIBS_URL") or DEFAULT_URL if given is None else given
            )
        return self._url

    def redirect(self, url: str) -> None:
        """Publish to another broker from now on."""
        self.close()
        self._given_url, self._url = url, None

    def publish(self, message: Message) -> bytes:
        """Store a message; return the id of the job that there is now: its own, or the first's."""
        if _Process.importing:
            raise _enqueued_while_importing()
        found = self._door.publish(message)
        if isinstance(found, bytes):
            return found
        raise own(found)

    def publish_on(self, connection: CallersConnection, message: Message) -> bytes:
        """Store a message in the transaction of a caller's connection, as `publish` does."""
        if _Process.importing:
            raise _enqueued_while_importing()
        broker = self._door.look(lambda broker: broker)
        if broker.capabilities.transactional_publish:
            # Of a queue made in that transaction, all others would wait for its end.
            self._door.serving(message.queue)
        # Not within the door: that transaction may wait, and is nobody else's affair.
        (answer,) = broker.publish_on(connection, [message])
        found = message.id if isinstance(answer, Stored) else verdict(message, answer, broker)
        if isinstance(found, bytes):
            return found
        raise found

    def apublish(self, message: Message) -> "asyncio.Future[bytes]":
        """Return what the running event loop waits for until a message is stored."""
        if _Process.importing:
            raise _enqueued_while_importing()
        with self._helpers:
            return (self._publisher or self._started()).publish(message)

    def publish_many(self, batches: Iterable[Sequence[Message]]) -> int:
        """Store batches of messages, one while the next is made; return how many are new."""
        if _Process.importing:
            raise _enqueued_while_importing()
        with self._helpers:
            stream = (self._publisher or self._started()).stream()
        try:
            for batch in batches:
                stream.send(batch)
            stream.finish()
        except BaseException as error:
            stream.abandon()
            how_many = f"{counted(stream.stored, 'job')} stored before that"
            if error is stream.error and isinstance(error, DibsError):
                raise type(error)(f"{error}; {how_many}") from error
            error.add_note(how_many)
            raise
        return stream.stored

    def end_of(self, key: bytes, timeout: object) -> "concurrent.futures.Future[Result]":
        """Return what will have the end of a job, or `TimeoutError` after so many seconds.

        Raises:
            OptionError: it is negative, NaN, or no number.
        """
        # Asked in this way round, NaN is refused too.
        if not (timeout is None or (isinstance(timeout, int | float) and timeout >= 0)):
            raise OptionError(
                f"`timeout` is {timeout!r}: give seconds from 0 on, or None for as long as it takes"
            )
        with self._helpers:
            if self._watcher is None:
                from dibs.producer.watcher import Watcher  # most programs never wait

                self._watcher = Watcher(self._handle.open_another, self.clock)
            return self._watcher.ask(key, timeout)

    def look(self, at: Callable[[Broker], T]) -> T:
        """Ask the broker something."""
        return self._door.look(at)

    def close(self) -> None:
        """Finish what is on its way, and close the broker; publishing opens it again."""
        with self._helpers:
            publisher, self._publisher = self._publisher, None
            watcher, self._watcher = self._watcher, None
        if publisher is not None:
            publisher.stop()
        if watcher is not None:
            watcher.stop()
        self._door.close()

    def renew(self) -> None:
        """Become a producer of its own in a forked child."""
        self._publisher = None
        self._helpers = threading.RLock()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.drop()
        self.ids.renew()
        self._door.renew()
        self._handle.drop()

    def _open(self) -> Broker:
        return open_broker(self.url, worker_id=self._randomness(16), clock=self.clock)

    def _started(self) -> "Publisher":
        from dibs.producer.publisher import Publisher  # asyncio is most of a program's start

        self._publisher = Publisher(self._door)
        return self._publisher


@contextmanager
def importing() -> Iterator[None]:
    """Refuse to enqueue meanwhile: dibs imports the user's modules."""
    _Process.importing = True
    try:
        yield
    finally:
        _Process.importing = False


class _Process:
    importing = False


def _enqueued_while_importing() -> EnqueueWhileImporting:
    from traceback import extract_stack

    inside = os.path.dirname(os.path.dirname(__file__)) + os.sep  # the whole of dibs
    outside = (
        frame for frame in reversed(extract_stack()) if not frame.filename.startswith(inside)
    )
    frame = next(outside)
    return EnqueueWhileImporting(
        f"{frame.filename}:{frame.lineno} enqueues a job while dibs imports the module: every"
        " start of a worker, and every look at its queues, would do it again. Move it into a"
        ' function, or under `if __name__ == "__main__":`'
    )


_producers: WeakSet[Producer] = WeakSet()


def _renew_all() -> None:
    for producer in list(_producers):
        producer.renew()


def _close_all() -> None:
    for producer in list(_producers):
        producer.close()


os.register_at_fork(after_in_child=_renew_all)
atexit.register(_close_all)
