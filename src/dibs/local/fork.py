"""What a forked child does with the descriptors it was born with.

A child's copy keeps an flock alive after its parent died, and makes a dead waiter look alive;
closing a copy takes nothing from the parent. A database is left open instead.
Called by: whatever in this folder owns a descriptor.
"""

import os
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Something with descriptors of this process."""

    def drop(self) -> None:
        """Give up what belongs to the parent, changing nothing for it."""
        ...


_owners: WeakSet[Owner] = WeakSet()


def drop_in_child(owner: Owner) -> None:
    """Have `owner.drop` called in every child that this process forks."""
    _owners.add(owner)


def _drop_all() -> None:
    for owner in list(_owners):
        with suppress(OSError):  # a descriptor may be closed already; the others count on this
            owner.drop()


os.register_at_fork(after_in_child=_drop_all)
