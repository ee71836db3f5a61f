"""The door to the broker, through which one thread goes at a time and takes along who waits.

Owns: the lock around the process's broker, and group commit: whoever has the lock publishes all
that was queued meanwhile, and the others wait for their share.
Must never: leave a thread waiting when nobody is at work, whatever is raised where.
Called by: `Producer`, and its publisher thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ParamSpec, TypeVar

from dibs.brokers.contract import Broker
from dibs.errors import BrokerBusy, BrokerError
from dibs.message import Message
from dibs.producer.handle import Handle, Verdict

P = ParamSpec("P")
T = TypeVar("T")
BATCH_MESSAGES = 1_000
BATCH_BYTES = 4 << 20
"""How much one trip takes along: a transaction of some milliseconds."""


class Waiter:
    """A message in the queue at the door, and the thread that waits for what becomes of it."""

    __slots__ = ("message", "signal", "verdict")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.verdict: Verdict | None = None
        self.signal: threading.Lock | None = None

    def wait(self) -> None:
        """Wait to be woken. The first call only says that there is someone to wake.

        Between the two the caller looks again whether it has to wait at all: who left the door
        before the first call has woken nobody.
        """
        if self.signal is None:
            signal = threading.Lock()
            signal.acquire()
            self.signal = signal
        else:
            self.signal.acquire()

    def wake(self) -> None:
        """End the wait: there is a verdict, or the door is free."""
        if self.signal is not None:
            with suppress(RuntimeError):  # another thread did it already
                self.signal.release()


class Door:
    """The one way to a process's broker. Any thread may use it."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.renew()

    def renew(self) -> None:
        """Be as new: in a forked child, where nobody waits and the lock's holder does not exist."""
        # One that knows whose it is: a signal's handler may raise right after it was taken, before
        # anything of ours could note that, and a door that nobody leaves is shut for good.
        self._lock = threading.RLock()
        self._inside: int | None = None
        self._waiting: deque[Waiter] = deque()

    def publish(self, message: Message) -> Verdict:
        """Store one message, together with those of other threads if there are any.

        Raises:
            BrokerError: it was not stored; what several share is returned, for each to copy.
        """
        if self._inside is None and not self._waiting:
            # Nobody to share the trip with. To wait for oneself takes a fiftieth of an `enqueue`.
            return self._within(self._handle.publish, [message])[0]
        self._refuse_to_enter_twice()
        waiter = Waiter(message)
        try:
            self._waiting.append(waiter)
            while waiter.verdict is None:
                if self._lock.acquire(blocking=False):
                    self._inside = threading.get_ident()
                    self._publish_waiting()
                    self._leave()
                else:
                    waiter.wait()
        except BaseException:
            with suppress(ValueError):
                self._waiting.remove(waiter)
            self._leave_if_inside()
            raise
        return waiter.verdict

    def publish_batch(self, messages: Sequence[Message]) -> list[Verdict]:
        """Store messages in one go; say of each what became of it.

        Raises:
            BrokerError: nothing was stored, or (`PublishUnknown`) nobody can tell.
        """
        return self._within(self._handle.publish, messages)

    def serving(self, queue: str) -> None:
        """Have the broker have a queue of that name.

        Raises:
            BrokerError: it cannot be opened, or make one.
        """
        self._within(self._handle.serving, {queue})

    def look(self, at: Callable[[Broker], T]) -> T:
        """Ask the broker something, when nobody else uses it.

        Raises:
            BrokerError: it cannot be asked.
        """
        return self._within(self._handle.look, at)

    def close(self) -> None:
        """Close the broker when nobody uses it; the next to come opens it again."""
        self._within(self._handle.close)

    def _within(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something with the broker when nobody else uses it."""
        self._refuse_to_enter_twice()
        try:
            self._lock.acquire()
            self._inside = threading.get_ident()
            if self._waiting:
                # A thread that comes back at once is in before those it woke can look: for them
                # it would be shut for as long as that goes on.
                with suppress(Exception):  # whoever of them is in next meets it, not this caller
                    self._publish_waiting()
            answer = work(*args, **kwargs)
            self._leave()
        except BaseException:
            self._leave_if_inside()
            raise
        return answer

    def _refuse_to_enter_twice(self) -> None:
        if self._inside == threading.get_ident():
            raise BrokerBusy(
                "this thread is enqueueing already: it was called from a signal handler or"
                " a finalizer that interrupted another call; set a flag there instead"
            )

    def _publish_waiting(self) -> None:
        batch = self._first_in_line()
        try:
            verdicts = self._handle.publish([waiter.message for waiter in batch])
            for waiter, verdict in zip(batch, verdicts, strict=True):
                waiter.verdict = verdict
        except BrokerError as error:
            for waiter in batch:
                waiter.verdict = error
        finally:
            # Ctrl-C in this thread is not the others' affair. If their messages were stored all
            # the same, whoever publishes them again is told so: the ids are the same.
            self._tell()

    def _first_in_line(self) -> list[Waiter]:
        """Return a trip's worth of who waits. They stay in line until they have a verdict."""
        batch: list[Waiter] = []
        size = 0
        for waiter in list(self._waiting):
            if len(batch) == BATCH_MESSAGES or size >= BATCH_BYTES:
                break
            if waiter.verdict is None:
                batch.append(waiter)
                size += len(waiter.message.args)
        return batch

    def _leave(self) -> None:
        """Let the next one in."""
        self._inside = None
        self._lock.release()
        if self._waiting:
            self._wake_next()

    def _leave_if_inside(self) -> None:
        """Let the next one in, interrupted wherever it may be: on the way in, inside, or out."""
        if self._inside == threading.get_ident():
            self._inside = None
        with suppress(RuntimeError):  # not in yet, or out again
            self._lock.release()
        self._wake_next()

    def _tell(self) -> None:
        """Wake all who have a verdict, and let them out of the line."""
        for waiter in list(self._waiting):
            if waiter.verdict is None:
                break
            waiter.wake()  # while it is in the line: an interruption between loses nobody
            with suppress(ValueError):  # it was interrupted, or another thread is here too
                self._waiting.remove(waiter)

    def _wake_next(self) -> None:
        """Wake the first who has no verdict: the door is free."""
        self._tell()  # once more: it may have been interrupted
        with suppress(IndexError):
            self._waiting[0].wake()
