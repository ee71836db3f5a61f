"""A message as SQS carries it: a body, an attribute `dibs`, and what SQS itself says of it.

Owns: how long a copy is delayed, in hops, and what another program may send.
Must never: ask for more than a delay of 15 minutes, or drop what it cannot read.
Called by: the broker and its inspector.
"""

from math import ceil
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dibs.aws.foreign import foreign_message, unreadable_message
from dibs.aws.moves import Item
from dibs.aws.queues import LONG
from dibs.brokers import wire
from dibs.brokers.wire import Envelope, Past
from dibs.message import DeadLetter, Message

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

AWAY = "long:"
ROOM = 65_536
"""Bytes of each message that are kept free for its attributes."""
LONGEST_DELAY_MS = 900_000
_MOST_SEALED = ROOM - 4_096


class Parcel(Struct, frozen=True):
    """A message as one receive brought it. `sure_until`: before then nobody else can get it.

    `left_ms` is what is left of a delay that takes several hops. `hidden_ms` is for how long SQS
    hides it, 0 if that is no measure of a lease. Every receive of it before this one is a lost
    lease in its past: what is given back is sent anew.
    """

    message: Message
    past: Past
    url: str
    handle: str
    left_ms: int
    hidden_ms: int
    sure_until: float

    @property
    def key(self) -> str:
        """The receipt as a lease keeps it: with what tells where its message is."""
        return AWAY + self.handle if self.url.endswith(LONG) else self.handle

    def copy(self) -> Item:
        """Return what to send to give it back: as it was, after what is left of its delay."""
        return copy_of(self.url, self.message, self.past, self.left_ms, self.sure_until)


def parcel_of(
    queue: str, url: str, got: "MessageTypeDef", hidden_ms: int, sure_until: float
) -> Parcel:
    """Read what a receive brought. What cannot be read has version 0, which no worker runs."""
    body, said = got.get("Body", ""), got.get("Attributes", {})
    ours = got.get("MessageAttributes", {}).get("dibs")
    if ours is None:
        envelope = Envelope(foreign_message(got))
    else:
        opened = wire.opened(ours.get("BinaryValue", b""))
        envelope = opened or Envelope(unreadable_message(got))
    at_home = queue.removesuffix(LONG)
    message = replace(envelope.message, queue=at_home, args=wire.args_of(body, envelope.plain))
    again, past = int(said.get("ApproximateReceiveCount", 1)) - 1, envelope.past
    if again:
        past = replace(past, fence=past.fence + again, lost=past.lost + again)
    left_ms = envelope.wait_ms
    if left_ms:
        first = said.get("ApproximateFirstReceiveTimestamp", said["SentTimestamp"])
        left_ms -= int(first) - int(said["SentTimestamp"])
    return Parcel(message, past, url, got["ReceiptHandle"], left_ms, hidden_ms, sure_until)


def place_of(queue: str, key: str) -> tuple[str, str]:
    """Return where the message of a lease is, and its receipt there."""
    return (queue + LONG, key.removeprefix(AWAY)) if key.startswith(AWAY) else (queue, key)


def copy_of(
    url: str, message: Message, past: Past, wait_ms: int, before: float, *, fresh_ms: int = 0
) -> Item:
    """Return a message as it is sent, to be granted after `wait_ms`; in hops, if it must be.

    For `fresh_ms` it can be received, and is yet not to be granted.
    """
    body, plain = wire.body_of(message.args)
    hops_ms = wait_ms if wait_ms > LONGEST_DELAY_MS else fresh_ms
    data = wire.sealed(Envelope(message, past, plain, hops_ms), _MOST_SEALED)
    entry = {
        "MessageBody": body,
        "DelaySeconds": ceil(min(max(wait_ms, 0), LONGEST_DELAY_MS) / 1_000),
        "MessageAttributes": {"dibs": {"DataType": "Binary", "BinaryValue": data}},
    }
    size = len(message.args) if plain else len(body)
    return Item(url, entry, size + len(data) + 10, before)


def dead_copy_of(url: str, message: Message, past: Past, letter: DeadLetter, before: float) -> Item:
    """Return a dead letter: why, as text; and fresh budgets, so that it may be moved back."""
    fresh = replace(past, failures=0, crashes=0, lost=0)
    item = copy_of(url, message, fresh, 0, before)
    texts = {
        "reason": letter.reason,
        "error": f"{letter.error.type}: {letter.error.message}",
        "counters": f"failures {past.failures}, crashes {past.crashes}, lost {past.lost}",
    }
    attributes: dict[str, Any] = {
        f"dibs-{name}": {"DataType": "String", "StringValue": wire.legible(text, 250)}
        for name, text in texts.items()
    }
    attributes |= item.entry["MessageAttributes"]
    entry = {**item.entry, "MessageAttributes": attributes}
    return Item(url, entry, item.size + ROOM - _MOST_SEALED, before)
