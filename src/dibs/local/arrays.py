"""Many values bound to one statement, which then runs without a word from Python.

Must never: know what the values mean. Called by: brokers that are files.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from apsw import carray

NULL = -1


def integers(values: Iterable[Any]) -> Any:
    """Return whole numbers to bind as an array.

    The 0 before them stands for none: an array must not be empty, and nothing has this number.
    """
    return carray(array("q", [0, *values]))


def packed(values: Sequence[bytes | None]) -> tuple[bytes, Any]:
    """Return `values` as one long value, and an array of where each lies in it.

    A place is offset << 32 | size, or `NULL` for None.
    """
    places, parts, offset = array("q"), [], 0
    for value in values:
        if value is None:
            places.append(NULL)
            continue
        parts.append(value)
        places.append(offset << 32 | len(value))
        offset += len(value)
    parts.append(b".")  # a part of an empty value would be NULL
    return b"".join(parts), carray(places)
