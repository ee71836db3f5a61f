"""What is sent to queues and deleted from them: many entries at once, ten to a request.

Must never: delete what has a copy to follow it before that is confirmed, or delete by a receipt
whose time is over: then it may be another's message.
Called by: the broker, from its owner's thread and from those behind its bell.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dibs.wires.aws.calls import Calls
from dibs.wires.aws.client import Failure, entries

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

BATCH = 10
BATCH_BYTES = 1_048_576
LONGEST_DELAY_MS = 900_000
NOT_TRIED = Failure("not tried", "not tried", sure=True)
Place = str | Failure
"""The address of a queue, or why it has none now."""


class Item(Struct, frozen=True):
    """One entry for the queue at `url`, not to be sent from the moment `before` on."""

    url: Place
    entry: Mapping[str, Any]
    size: int = 0
    before: float = inf


def whole_seconds(ms: int) -> int:
    """Return what is at least `ms`: SQS counts in seconds."""
    return ceil(ms / 1_000)


def hiding(url: Place, handle: str, ms: int, before: float) -> Item:
    """Return what hides a message for at least `ms` from now on."""
    return Item(url, {"ReceiptHandle": handle, "VisibilityTimeout": whole_seconds(ms)}, 0, before)


def sending(
    url: Place, body: str, attributes: Mapping[str, bytes | str], delay_ms: int, before: float
) -> Item:
    """Return what sends a message, to be had after `delay_ms`: 15 minutes are the most."""
    typed = {
        name: {"DataType": "Binary", "BinaryValue": value}
        if isinstance(value, bytes)
        else {"DataType": "String", "StringValue": value}
        for name, value in attributes.items()
    }
    delay = whole_seconds(min(max(delay_ms, 0), LONGEST_DELAY_MS))
    entry = {"MessageBody": body, "DelaySeconds": delay, "MessageAttributes": typed}
    size = len(body.encode()) + sum(len(name) + 6 + 4 * len(v) for name, v in attributes.items())
    return Item(url, entry, size, before)


class Move(Struct):
    """What is to be deleted, and before that, the copy to be sent, if there is one."""

    url: Place
    handle: str
    before: float
    copy: Item | None = None
    failure: Failure | None = NOT_TRIED
    copied: bool = False


class Moves:
    """The batches of one broker. `heard` is told of each answer, and what queue it is of."""

    def __init__(
        self, client: "SQSClient", calls: Calls, heard: Callable[[Place, object], None]
    ) -> None:
        self._client = client
        self._calls = calls
        self._heard = heard

    def send(self, items: Sequence[Item], until: float) -> list[Failure | None]:
        """Send messages; say of each why it is not known to be stored, or None."""
        return self._each(self._client.send_message_batch, items, until)

    def hide(self, items: Sequence[Item], until: float) -> list[Failure | None]:
        """Change for how long messages are hidden; say of each why it is not known to be."""
        return self._each(self._client.change_message_visibility_batch, items, until)

    def make(self, moves: Sequence[Move], until: float) -> None:
        """Make moves; each then says why it is not known to be made. `copied`: its copy is."""
        copies = [(move, move.copy) for move in moves if move.copy is not None]
        half = self._calls.half(until)
        for (move, _), failure in zip(
            copies, self.send([copy for _, copy in copies], half), strict=True
        ):
            move.failure = failure
            if failure is None:
                move.copy, move.copied = None, True
        left = [move for move in moves if move.copy is None]
        items = [Item(m.url, {"ReceiptHandle": m.handle}, before=m.before) for m in left]
        verb = self._client.delete_message_batch
        for move, failure in zip(left, self._each(verb, items, until), strict=True):
            move.failure = failure

    def _each(
        self, verb: Callable[..., Any], items: Sequence[Item], until: float
    ) -> list[Failure | None]:
        tens, calls = _tens(items), []
        for ten in tens:
            named = [{**items[i].entry, "Id": str(n)} for n, i in enumerate(ten)]
            call = partial(verb, QueueUrl=items[ten[0]].url, Entries=named)
            calls.append((call, min(items[i].before for i in ten)))
        said: list[Failure | None] = [
            item.url if isinstance(item.url, Failure) else NOT_TRIED for item in items
        ]
        for ten, answer in zip(tens, self._calls.all(calls, until), strict=True):
            self._heard(items[ten[0]].url, answer)
            for i, failure in zip(ten, entries(answer, len(ten)), strict=True):
                said[i] = failure
        return said


def _tens(items: Sequence[Item]) -> list[list[int]]:
    """Return the places of items that may go together: one queue, ten at most, not too large."""
    tens: list[list[int]] = []
    last: dict[str, tuple[list[int], int]] = {}
    for i, item in enumerate(items):
        if isinstance(item.url, Failure):
            continue
        ten, size = last.get(item.url, ([], 0))
        if not ten or len(ten) == BATCH or size + item.size > BATCH_BYTES:
            ten, size = [], 0
            tens.append(ten)
        ten.append(i)
        last[item.url] = ten, size + item.size
    return tens
