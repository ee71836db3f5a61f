"""A message as SQS carries it: a body, an attribute `dibs`, and what SQS itself says of it.

Owns: how long a copy is delayed, in hops, and what another program may send.
Must never: ask for more than a delay of 15 minutes, or drop what it cannot read.
Called by: the broker and its inspector.
"""

from msgspec import Struct
from msgspec.structs import replace

from dibs.brokers import wire
from dibs.brokers.wire import Envelope, Past
from dibs.message import DeadLetter, Message
from dibs.wires.aws.foreign import Got, foreign_message, unreadable_message
from dibs.wires.aws.moves import LONGEST_DELAY_MS, Item, Place, sending, whole_seconds
from dibs.wires.aws.queues import LONG

AWAY = "long:"
ROOM = 65_536
"""Bytes of each message that are kept free for its attributes."""
_MOST_SEALED = ROOM - 4_096


class Parcel(Struct, frozen=True):
    """A message as one receive brought it. `sure_until`: before then nobody else can get it.

    `left_ms` is what is left of a delay that takes several hops. `odd`: SQS does not hide it for
    its own time. Every receive of it before this one is a lost lease in its past: what is given
    back is sent anew.
    """

    message: Message
    past: Past
    url: str
    handle: str
    left_ms: int
    odd: bool
    sure_until: float

    @property
    def key(self) -> str:
        """The receipt as a lease keeps it: with what tells where its message is."""
        return AWAY + self.handle if self.url.endswith(LONG) else self.handle


def parcel_of(queue: str, url: str, got: Got, hidden_ms: int, sure_until: float) -> Parcel:
    """Read what a receive brought. What cannot be read has version 0, which no worker runs."""
    body, said = got.get("Body", ""), got.get("Attributes", {})
    ours = got.get("MessageAttributes", {}).get("dibs")
    opened = wire.opened(ours.get("BinaryValue", b"")) if ours else Envelope(foreign_message(got))
    envelope = opened or Envelope(unreadable_message(got))
    args = wire.args_of(body, envelope.plain)
    message = replace(envelope.message, queue=queue.removesuffix(LONG), args=args)
    again, past = int(said.get("ApproximateReceiveCount", 1)) - 1, envelope.past
    if again:
        past = replace(past, fence=past.fence + again, lost=past.lost + again)
    left_ms = 0 if again and queue.endswith(LONG) else envelope.wait_ms  # its sender let it go
    if left_ms:
        left_ms -= int(said["ApproximateFirstReceiveTimestamp"]) - int(said["SentTimestamp"])
    odd = hidden_ms != 1_000 * whole_seconds(message.visibility_timeout_ms)
    return Parcel(message, past, url, got["ReceiptHandle"], left_ms, odd, sure_until)


def place_of(queue: str, key: str) -> tuple[str, str]:
    """Return where the message of a lease is, and its receipt there."""
    return (queue + LONG, key.removeprefix(AWAY)) if key.startswith(AWAY) else (queue, key)


def copy_of(
    url: Place, message: Message, past: Past, wait_ms: int, before: float, *, fresh_ms: int = 0
) -> Item:
    """Return a message as it is sent, to be granted after `wait_ms`; in hops, if it must be.

    For `fresh_ms` it can be received, and is yet not to be granted.
    """
    body, plain = wire.body_of(message.args)
    hops_ms = wait_ms if wait_ms > LONGEST_DELAY_MS else fresh_ms
    data = wire.sealed(Envelope(message, past, plain, hops_ms), _MOST_SEALED)
    return sending(url, body, {"dibs": data}, wait_ms, before)


def dead_copy_of(url: Place, message: Message, past: Past, why: DeadLetter, before: float) -> Item:
    """Return a dead letter: why, as text; and fresh budgets, so that it may be moved back."""
    body, plain = wire.body_of(message.args)
    fresh = replace(past, failures=0, crashes=0, lost=0)
    data = wire.sealed(Envelope(message, fresh, plain), _MOST_SEALED)
    texts = {f"dibs-{name}": text for name, text in wire.epitaph(past, why).items()}
    return sending(url, body, {"dibs": data, **texts}, 0, before)
