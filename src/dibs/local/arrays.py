"""Many values bound to one statement, which then runs without a word from Python.

Must never: know what the values mean. Called by: brokers that are files.
"""

from array import array
from collections.abc import Iterable
from typing import Any

from apsw import carray


def integers(values: Iterable[Any]) -> Any:
    """Return whole numbers to bind as an array.

    The 0 before them stands for none: an array must not be empty, and nothing has this number.
    """
    return carray(array("q", [0, *values]))


def blobs(values: Iterable[bytes]) -> Any:
    """Return values of bytes, one at the least, to bind as an array."""
    return carray(tuple(values))
