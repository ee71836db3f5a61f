"""Settlements that are all plain acknowledgements: the leases alone.

Owns: the form in which the outcomes of quick jobs travel from the pump to a store.
Must never: be needed: it is a sequence of settlements like any other, which are made when somebody
looks at one.
Called by: the settler, and adapters that end many leases by one statement.

To make a settlement of each lease, and to find out again that all of them are the same, took a
twentieth of the pump's time for a job that does nothing (benchmarks: `drain`).
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import overload

from dibs.message import Ack, Lease, Settlement

_ACK = Ack()


class Acked(Sequence[Settlement]):
    """An `Ack()` for each of `leases`, in order."""

    __slots__ = ("leases",)

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.leases = leases

    def __len__(self) -> int:
        return len(self.leases)

    @overload
    def __getitem__(self, at: int) -> Settlement: ...

    @overload
    def __getitem__(self, at: slice) -> "Acked": ...

    def __getitem__(self, at: int | slice) -> "Settlement | Acked":
        if isinstance(at, slice):
            return Acked(self.leases[at])
        return Settlement(self.leases[at], _ACK)

    def __iter__(self) -> Iterator[Settlement]:
        return map(Settlement, self.leases, repeat(_ACK))
