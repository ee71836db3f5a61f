"""Long polls behind a bell, for brokers that give work only to whoever asks and waits.

Owns: a thread for each queue that is waited for, what its polls brought, and the bell.
Must never: end because a poll failed, hold up the end of a process, or keep what nobody wants: what
came too late is given back.
Called by: the SQS adapter.

A poll cannot be called back. So what comes after its waiter stopped waiting is given back at once
if nobody will claim any more, and otherwise after `KEPT_SECONDS`, since its waiter is only busy.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from dibs.errors import BrokerUnavailable
from dibs.wakepipe import WakePipe

TEN = 10
KEPT_SECONDS = 0.5
SURE_SECONDS = 1.0
"""A poll that waits so long has looked everywhere: then there is nothing."""

T = TypeVar("T")


class _Poll(Generic[T]):
    """The polls for one queue. `want` is how many messages its waiter has room for.

    `dry`: the last one brought less than it asked for, so there is no more to be had just now.
    """

    def __init__(self) -> None:
        self.want = 0
        self.under_way = False
        self.dry = False
        self.brought: deque[T] = deque()


class Polls(Generic[T]):
    """One waiter's polls. `poll(queue, most)` waits for messages; it may raise, as `give_back` may.

    `waited(queue)` says for how many seconds it has done so by now: it may ask something before.
    """

    def __init__(
        self,
        poll: Callable[[str, int], list[T]],
        give_back: Callable[[list[T]], None],
        waited: Callable[[str], float],
    ) -> None:
        self._waited = waited
        self._poll = poll
        self._give_back = give_back
        self._bell = WakePipe()
        self._changed = threading.Condition()
        self._polls: dict[str, _Poll[T]] = {}
        self._trouble: Exception | None = None
        self._told = ""
        self._open = True

    def bell(self) -> int:
        """Return what is readable once a poll brought something, or failed."""
        return self._bell.fileno()

    def ready(self, queues: Sequence[str]) -> list[str]:
        """Return those of some queues of which there is something to take."""
        with self._changed:
            return [q for q in queues if (poll := self._polls.get(q)) and poll.brought]

    def take(self, queues: Sequence[str], limit: int) -> list[T]:
        """Return what polls brought, of each queue in turn.

        Raises:
            Exception: that of a poll that failed, or what the waiter is to be told, once.
        """
        with self._changed:
            self._bell.drain()
            trouble, self._trouble = self._trouble, None
            if trouble is not None:
                raise trouble
            taken: list[T] = []
            turn = deque(self._polls[queue] for queue in queues if queue in self._polls)
            while turn and len(taken) < limit:
                poll = turn.popleft()
                if poll.brought:
                    taken.append(poll.brought.popleft())
                    turn.append(poll)
            return taken

    def tell(self, error: Exception | None) -> None:
        """Have the next `take` raise what went wrong beside what was had, unless it goes on.

        None: nothing did, so it is over.
        """
        told, self._told = self._told, str(error or "")
        if error is not None and self._told != told:
            with self._changed:
                self._trouble = error

    def waits(self, queue: str) -> bool:
        """Whether a poll is under way or has just brought all there is: no need to look."""
        poll = self._polls.get(queue)
        return poll is not None and (poll.dry or (poll.under_way and poll.want > 0))

    def found_nothing(self, queues: Sequence[str]) -> bool:
        """Whether polls for all of these have waited for so long that nothing can be there."""
        with self._changed:
            polls = [self._polls.get(queue) for queue in queues]
            wanted = all(poll and poll.want and not poll.brought for poll in polls)
            return wanted and all(self._waited(queue) >= SURE_SECONDS for queue in queues)

    def want(self, queues: Sequence[str], room: int) -> None:
        """Wait for up to `room` messages of these queues, and for no others."""
        with self._changed:
            for queue in queues if room > 0 else ():
                if queue not in self._polls:
                    self._begin(queue)
            for queue, poll in self._polls.items():
                wanted = min(TEN, -(-room // len(queues))) if queue in queues else 0
                if wanted and poll.brought and self._open:
                    self._bell.ring()  # it came unwanted, after the last look
                poll.want, poll.dry = wanted, False
            self._changed.notify_all()

    def _begin(self, queue: str) -> None:
        """Have a thread for a queue; if there is none to be had, the next `take` says so."""
        poll: _Poll[T] = _Poll()
        name, args = f"dibs-poll-{queue}", (queue, poll)
        try:
            threading.Thread(target=self._run, args=args, name=name, daemon=True).start()
        except RuntimeError as error:
            self._trouble = BrokerUnavailable(f"no thread waits for jobs of {queue}: {error}")
        else:
            self._polls[queue] = poll

    def stop(self) -> list[T]:
        """Want nothing more; return what came, which is to be given back at once."""
        self.want([], 0)
        with self._changed:
            left = [one for poll in self._polls.values() for one in poll.brought]
            for poll in self._polls.values():
                poll.brought.clear()
            return left

    def close(self) -> None:
        """Stop; threads end when the polls that are under way have."""
        with self._changed:
            if self._open:
                self._open = False
                self._bell.close()
            self._changed.notify_all()

    def _run(self, queue: str, poll: _Poll[T]) -> None:
        while self._open or poll.brought:
            try:
                self._step(queue, poll)
            except Exception as error:  # the waiter is told, and asks for another poll
                self._ring(error)

    def _step(self, queue: str, poll: _Poll[T]) -> None:
        """Wait until there is something to do, and do it."""
        with self._changed:
            if self._open and not poll.want:
                self._changed.wait(KEPT_SECONDS if poll.brought else None)
            most = poll.want if self._open else 0
            unwanted = [] if most else list(poll.brought)
            if unwanted:
                poll.brought.clear()
            poll.under_way = most > 0
        if unwanted:
            self._give_back(unwanted)
        elif most:
            self._bring(queue, poll, most)

    def _bring(self, queue: str, poll: _Poll[T], most: int) -> None:
        brought: list[T] = []
        try:
            brought = self._poll(queue, most)
        except Exception:
            poll.want = 0
            raise
        finally:
            with self._changed:
                poll.under_way = False
                poll.brought += brought
                if brought and poll.want and self._open:
                    poll.want, poll.dry = 0, len(brought) < most
                    self._bell.ring()

    def _ring(self, error: Exception) -> None:
        with self._changed:
            if self._open:
                self._trouble = error
                self._bell.ring()
