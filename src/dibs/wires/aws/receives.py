"""Messages as they are received: at once, or by a poll that waits for some.

Owns: how many requests a look is worth, and until when what they bring is surely ours.
Must never: take an answer that came too soon for an empty queue, receive from a paused one, or
receive what nobody has the time to hide: that is a loss.
Called by: the SQS adapter, and its polls in their threads.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dibs.wires.aws.calls import Calls, NotAnswered
from dibs.wires.aws.client import Failure, failure_of
from dibs.wires.aws.foreign import Got
from dibs.wires.aws.queues import Queues

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

T = TypeVar("T")
TEN = 10
POLL_SECONDS = 20
POLLED_SECONDS = 30
"""For how long SQS hides what a poll brings: it is used only while that is surely not over."""
WATCH_SECONDS = 2.0
_ASKED: dict[str, Any] = {
    "MessageAttributeNames": ["All"],
    "MessageSystemAttributeNames": [
        "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp",
    ],
}  # fmt: skip


class Receives(Generic[T]):
    """Both ways: each has a client of its own.

    `read` makes what is handed out of a message's queue and address, the message, for how many ms
    it is hidden (0 from a poll: nobody knows since when) and until when it is surely ours. To
    `give_back` is what came after `at_once` had ended: it would be hidden from everybody, and lost.
    """

    def __init__(
        self,
        clients: tuple["SQSClient", "SQSClient"],
        queues: Queues,
        calls: Calls,
        read: Callable[[str, str, Got, int, float], T],
        give_back: Callable[[list[T]], None],
    ) -> None:
        self._client, self._polling = clients
        self._queues = queues
        self._calls = calls
        self._read = read
        self._give_back = give_back
        self._widths: dict[str, int] = {}
        self._left: dict[str, float] = {}
        self.usual: dict[str, int] = {}
        """For how many seconds to hide what a queue has: mostly right, and changed where not."""

    def at_once(
        self, queues: Sequence[str], room: int, until: float
    ) -> tuple[list[T], Failure | None]:
        """Receive from each queue its share, and what one does not use for the others.

        As many requests at once as lately came back full, then twice as many, since an empty one
        costs as much as a full one. The second value says of a request why it failed.

        Half of the time is for what is found: to hide it, or to send it anew. A request leaves only
        while its answer can be had in the other half: it may take as long as the longest round so
        far, and a quarter of what is left of that half.
        """
        found: list[T] = []
        trouble: Failure | None = None
        total = dict.fromkeys(queues, 0)
        half, longest = self._calls.half(until), 0.0
        while queues and room > 0:
            began = self._calls.now()
            before = half - max(longest, (half - began) / 4)
            asked = self._shares(sorted(queues, key=total.__getitem__), room)
            tens = [(q, min(TEN, n - at)) for q, n in asked.items() for at in range(0, n, TEN)]
            calls = [(partial(self._receive, queue, most), before) for queue, most in tens]
            got = dict.fromkeys(queues, 0)
            answers = self._calls.all(calls, half, self._late)
            for (queue, _), answer in zip(tens, answers, strict=True):
                if isinstance(answer, Exception):
                    trouble = failure_of(answer)
                else:
                    got[queue] += len(answer)
                    total[queue] += len(answer)
                    found += answer
            for queue, most in asked.items():
                width = 2 * self._widths.get(queue, 1) if got[queue] == most else got[queue] // TEN
                self._widths[queue] = max(1, min(width, TEN))
            room -= sum(got.values())
            queues = [queue for queue in queues if got[queue] == asked[queue]]
            now = self._calls.now()
            longest = max(longest, now - began)
            if now + longest > half:
                break
        return found, trouble

    def poll(self, queue: str, most: int) -> list[T]:
        """Wait for messages, or a while for a paused queue to go on; raise a `BrokerError`."""
        try:
            return self._polled(queue, most)
        except Exception as error:
            raise self._queues.error(failure_of(error)) from error

    def waited(self, queue: str) -> float:
        """Return for how many seconds a request waits at a queue by now; 0 if none does.

        A poll that only asks whether the queue is paused does not look: see
        `test_a_queue_at_which_no_receive_waits_yet_is_not_known_to_be_empty`.
        """
        left = self._left.get(queue)
        return 0.0 if left is None else self._calls.clock.monotonic() - left

    def _polled(self, queue: str, most: int) -> list[T]:
        if self._queues.paused(queue):
            threading.Event().wait(WATCH_SECONDS)
            return []
        url = self._queues.url(queue)
        left = self._calls.now()
        self._left[queue] = self._calls.clock.monotonic()
        try:
            answer = self._queues.at(
                url, self._polling.receive_message, MaxNumberOfMessages=most,
                VisibilityTimeout=POLLED_SECONDS, WaitTimeSeconds=POLL_SECONDS, **_ASKED,
            )  # fmt: skip
        finally:
            del self._left[queue]
        got, waited = answer.get("Messages", ()), self._calls.now() - left
        if not got and waited < POLL_SECONDS / 2:
            raise NotAnswered(f"a poll of {POLL_SECONDS} s ended after {waited:.1f} s with nothing")
        return [self._read(queue, url, one, 0, left + POLLED_SECONDS) for one in got]

    def _late(self, parcels: list[T]) -> None:
        """Give back in a thread of its own: those that make calls are needed for it."""
        if parcels:
            args, name = (parcels,), "dibs-late"
            thread = threading.Thread(target=self._give_back, args=args, name=name, daemon=True)
            with suppress(RuntimeError):  # there is none to be had: they are back in time
                thread.start()

    def _shares(self, queues: Sequence[str], room: int) -> dict[str, int]:
        each, over = divmod(room, len(queues))
        return {
            queue: min(each + (n < over), TEN * self._widths.get(queue, 1))
            for n, queue in enumerate(queues)
        }

    def _receive(self, queue: str, most: int) -> list[T]:
        hidden, url = self.usual.get(queue, POLLED_SECONDS), self._queues.url(queue)
        until = self._calls.now() + hidden
        answer = self._queues.at(
            url, self._client.receive_message, MaxNumberOfMessages=most,
            VisibilityTimeout=hidden, WaitTimeSeconds=0, **_ASKED,
        )  # fmt: skip
        got = answer.get("Messages", ())
        return [self._read(queue, url, one, hidden * 1_000, until) for one in got]
