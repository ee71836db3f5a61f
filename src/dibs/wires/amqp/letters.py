"""A message as it lies in a queue of RabbitMQ: its body, and its past in the headers.

Owns: the form of both. The body is MessagePack: the message as it was published, and JSON of how
its leases failed. The headers say what its counters were when this copy was made; how often the
server has given the copy back since, `x-delivery-count` says.
Must never: talk to a server.
Called by: `Intake`, and the adapter.
"""

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from msgspec import Struct, msgpack
from msgspec.structs import asdict, astuple, replace
from pika.exceptions import AMQPError
from pika.spec import BasicProperties

from dibs.message import DeadLetter, Error, Lease, Message, Nack

_PERSISTENT = 2
_SHOWN_CHARACTERS = 500


class Body(Struct, frozen=True, gc=False, array_like=True):
    """What the bytes of a letter are."""

    message: Message
    failed: str = "[]"


class Past(Struct, frozen=True, gc=False):
    """The counters of a letter, and when it is due."""

    fence: int = 0
    failures: int = 0
    crashes: int = 0
    lost: int = 0
    due_ms: int = 0


ODD = (ValueError, ArithmeticError, LookupError, RecursionError, OSError, AMQPError, struct.error)
"""What reading raises of a body or properties that dibs did not write: msgspec's errors are of the
first kind, and pika makes dates of numbers that are none."""

write = msgpack.Encoder().encode
_read = msgpack.Decoder(Body).decode
_MOST = 1 << 53
"""More than any number of ours: one more than what it bounds still fits into a header."""


def read(body: bytes) -> Body:
    """Read a body, of which everything can be used."""
    letter = _read(body)
    if letter.failed != "[]" and not isinstance(json.loads(letter.failed), list):
        raise ValueError("its failures are no list")
    return letter


@lru_cache(4_096)
def past_of(properties: bytes) -> Past:
    """Read properties, which of most letters are the same bytes.

    Each return by the server was a lease that nobody settled: one more fence, and one more loss.
    """
    headers = BasicProperties().decode(properties).headers or {}
    known = {name: _number(headers.get(name)) for name in Past.__struct_fields__}
    lost = _number(headers.get("x-delivery-count"))
    known["fence"] += lost
    known["lost"] += lost
    return Past(**known)


def past_if_any(properties: bytes) -> Past | None:
    """Read properties; None of those that cannot be read."""
    try:
        return past_of(properties)
    except ODD:
        return None


def properties_of(
    past: Past, *, expires_ms: int | None = None, more: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Write the properties of a copy; `more` are headers for people."""
    headers = asdict(past)
    expiration = None if expires_ms is None else str(expires_ms)
    whole = BasicProperties(
        headers={**headers, **more}, delivery_mode=_PERSISTENT, expiration=expiration
    )
    return b"".join(whole.encode())


def after(lease: Lease, charge: str, due_ms: int = 0) -> Past:
    """Return the counters of a message whose lease has ended with `charge`."""
    return Past(
        fence=lease.fence,
        failures=lease.failures + (charge == "failure"),
        crashes=lease.crashes + (charge == "crash"),
        lost=lease.lost,
        due_ms=due_ms,
    )


def with_attempt(
    body: bytes, fence: int, now_ms: int, failed: Nack | DeadLetter, most: int
) -> bytes:
    """Return a body with one more failed lease noted; the last `most` are kept."""
    letter = read(body)
    noted = [*json.loads(letter.failed), [fence, now_ms, failed.charge, astuple(failed.error)]]
    return write(replace(letter, failed=json.dumps(noted[-most:])))


def shown(error: Error) -> str:
    """Return an error as a header may say it."""
    return f"{error.type}: {error.message}"[:_SHOWN_CHARACTERS].encode(errors="replace").decode()


def _number(value: object) -> int:
    number = value if isinstance(value, int) else 0
    if not 0 <= number < _MOST:
        raise ValueError(f"{number} is no number of a header of dibs")
    return number
