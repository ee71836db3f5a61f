"""Arrays as PostgreSQL reads them, made of many equal parts at the price of few.

Must never: import a driver. Called by: adapters, for the arguments of a call.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any

INT2, INT4, INT8, TEXT, BYTEA, UUID = 21, 23, 20, 25, 17, 2950
"""The numbers of types, the same on every server."""

_HEADER = Struct("!iiiii").pack
_LENGTH = Struct("!i").pack
_NUMBERS = {INT2: Struct("!ih").pack, INT4: Struct("!ii").pack, INT8: Struct("!iq").pack}
_WIDTHS = {INT2: 2, INT4: 4, INT8: 8}


class Array(bytes):
    """An array as it goes over the wire."""


def element(of: int, value: Any) -> bytes:
    """Return one element of an array; elements that are equal need to be made only once."""
    if value is None:
        return _LENGTH(-1)
    if of in _NUMBERS:
        return _NUMBERS[of](_WIDTHS[of], value)
    data: bytes = value.encode() if of == TEXT else value
    return _LENGTH(len(data)) + data


def array(of: int, count: int, elements: Sequence[bytes]) -> Array:
    """Return an array of `count` elements, some of which may be joined already."""
    if not count:
        return Array(_HEADER(0, 0, of, 0, 0)[:12])
    return Array(_HEADER(1, 1, of, count, 1) + b"".join(elements))


def array_of(of: int, values: Sequence[Any]) -> Array:
    """Return an array of values."""
    return array(of, len(values), [element(of, value) for value in values])
