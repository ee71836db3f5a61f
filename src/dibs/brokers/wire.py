"""A message as bytes, for brokers that carry bodies and know nothing of what is in them.

Owns: the envelope, which has all of a message but its arguments and its queue, and its past.
Must never: know a broker, or change what an older dibs can read without another `FORM`.
Called by: adapters.
"""

import re
from base64 import b64decode, b64encode

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dibs.brokers.contract import ATTEMPTS_KEPT
from dibs.message import Attempt, DeadLetter, Error, Lease, Message, Nack, Release

FORM = 1
_TYPE, _TEXT, _READ = 200, 1_000, 500
_BASE64 = "base64:"
_XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


class Past(Struct, frozen=True, gc=False, array_like=True):
    """What a message has been through, up to this copy of it; `fence` is the last one granted."""

    fence: int = 0
    failures: int = 0
    crashes: int = 0
    lost: int = 0
    attempts: tuple[Attempt, ...] = ()


class Envelope(Struct, frozen=True, gc=False, array_like=True):
    """A message less its queue and its arguments, which are beside it, and its past.

    `plain`: the body is the arguments as they are. `wait_ms`: how long the message waits from the
    sending of this copy, where that is more than one delay of the broker.
    """

    message: Message
    past: Past = Past()
    plain: bool = True
    wait_ms: int = 0
    form: int = FORM


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


def sealed(envelope: Envelope, most: int) -> bytes:
    """Encode an envelope in `most` bytes: if it must be, without the oldest attempts."""
    bare = replace(envelope.message, queue="", args=b"")
    data = _encode(replace(envelope, message=bare))
    while len(data) > most and (attempts := envelope.past.attempts):
        envelope = replace(envelope, past=replace(envelope.past, attempts=attempts[1:]))
        data = _encode(replace(envelope, message=bare))
    return data


def opened(data: bytes) -> Envelope | None:
    """Decode an envelope; None if it is none, or of another form."""
    try:
        envelope = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return envelope if envelope.form == FORM else None


def body_of(args: bytes) -> tuple[str, bool]:
    """Return a body for arguments, of characters that XML knows; whether it is plain."""
    try:
        text = args.decode()
    except UnicodeDecodeError:
        text = ""
    plain = _XML.fullmatch(text) is not None
    return (text, True) if plain else (_BASE64 + b64encode(args).decode(), False)


def args_of(body: str, plain: bool) -> bytes:
    """Return what `body_of` was given; a body that nobody can have made so, as it is."""
    try:
        return body.encode() if plain else b64decode(body.removeprefix(_BASE64), validate=True)
    except ValueError:
        return body.encode("utf-8", "replace")


def legible(text: str, most: int) -> str:
    """Return a text of at most `most` characters, those that XML knows; never empty."""
    return "".join(one if _XML.fullmatch(one) else "?" for one in text[:most]) or "-"


def next_past(
    lease: Lease, attempts: tuple[Attempt, ...], outcome: Nack | DeadLetter | Release, at_ms: int
) -> Past:
    """Return the past of what follows a lease; `attempts` are those before it."""
    past = Past(lease.fence, lease.failures, lease.crashes, lease.lost, attempts)
    if isinstance(outcome, Release):
        return past
    attempt = Attempt(past.fence, at_ms, outcome.charge, _short(outcome.error))
    return Past(
        past.fence,
        past.failures + (outcome.charge == "failure"),
        past.crashes + (outcome.charge == "crash"),
        past.lost,
        (*past.attempts, attempt)[-ATTEMPTS_KEPT:],
    )


def epitaph(past: Past, letter: DeadLetter) -> dict[str, str]:
    """Say of a dead letter why it died, for people who look at it with other tools."""
    return {
        "reason": letter.reason,
        "error": legible(f"{letter.error.type}: {letter.error.message}", _READ),
        "counters": f"failures {past.failures}, crashes {past.crashes}, lost {past.lost}",
    }


def _short(error: Error) -> Error:
    """Return an error that can be encoded, and of which twenty take some 40 kB at most in ASCII."""
    return Error(
        _text(error.type[:_TYPE]), _text(error.message[:_TEXT]), _text(error.traceback[-_TEXT:])
    )


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
