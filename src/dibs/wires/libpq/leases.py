"""Leases as they travel: the text of a notification that tells a waiter of one, and receipts.

Must never: raise for a note that it cannot read: others may notify a channel, too. Called by:
adapters.
"""

from collections.abc import Sequence

import msgspec

from dibs.alike import Alike
from dibs.message import Lease, Message
from dibs.wires.libpq.arrays import INT4, INT8, UUID, Array, array_of

LONGEST_NOTE = 4_000
"""How many bytes say a message that is handed over: a notification has fewer than 8,000."""


def note_of(runs: Sequence[Alike]) -> str | None:
    """Return what says a message that is alone; None if it is not, or too long."""
    first = runs[0]
    if len(runs) > 1 or len(first) > 1 or len(first.args[0]) > LONGEST_NOTE:
        return None
    # Not by looking at the run, which takes as long as all the rest of this.
    message = msgspec.structs.replace(first.pattern, id=first.ids[0], args=first.args[0])
    note = msgspec.json.encode(message)
    return note.decode() if len(note) <= LONGEST_NOTE else None


def lease_in(note: bytes) -> Lease | None:
    """Return the lease that a note tells of: its place, when it runs out, and its message."""
    try:
        seq, expiry_ms, text = note.split(b" ", 2)
        message = msgspec.json.decode(text, type=Message)
        return Lease(message, 1, 0, 0, 0, int(expiry_ms), int(seq))
    except (ValueError, msgspec.MsgspecError):
        return None


def receipts_of(leases: Sequence[Lease]) -> tuple[Array, Array, Array]:
    """Return what names leases to the server: message, place and fence."""
    return (
        array_of(UUID, [lease.message.id for lease in leases]),
        array_of(INT8, [lease.receipt for lease in leases]),
        array_of(INT4, [lease.fence for lease in leases]),
    )
