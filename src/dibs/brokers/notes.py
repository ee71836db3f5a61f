"""What processes of one machine leave for each other, as bytes that another version can refuse.

Must never: raise for what it cannot read. Called by: `Handover` and `Together`.
"""

from typing import TypeVar

import msgspec

VERSION = b"\x01"
"""Begins every note. It goes on when a value is written in another way."""

Value = TypeVar("Value")


def note_of(value: object) -> bytes:
    """Return a value as a note."""
    return VERSION + msgspec.msgpack.encode(value)


def read(note: bytes, kind: type[Value]) -> Value | None:
    """Return the value in a note; None if another version of dibs wrote it."""
    if note[:1] != VERSION:
        return None
    try:
        return msgspec.msgpack.decode(note[1:], type=kind)
    except msgspec.MsgspecError:
        return None
