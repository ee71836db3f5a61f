"""A message that is leased to a waiter by the transaction that stores it.

Nobody else has ever seen it, so nothing is to be decided by a claim: that spares a commit and the
claim's statements between `enqueue` and the start of a job (decision 0042). The waiter is called
before the commit, and told of its lease after it, while the lock is still held.

Owns: what is told to whom was called.
Must never: tell of a lease that is not committed. Called by: brokers that are files, whose
statement `hand_over` leases a message.
"""

import contextlib
from collections.abc import Sequence
from functools import partial

from dibs.alike import Alike
from dibs.brokers import notes
from dibs.brokers.contract import Broker
from dibs.brokers.handed import taken
from dibs.clock import Clock
from dibs.errors import BrokerError
from dibs.local.bells import LONGEST_NOTE, Bells
from dibs.local.database import Database
from dibs.message import Lease, Release, Settlement


class Handover:
    """The two ends of it, a broker's as a publisher and as a waiter.

    It is handed the broker when it needs it: two that hold each other would lie about, unclosed,
    until somebody collects garbage.
    """

    def __init__(self, db: Database, bells: Bells, clock: Clock) -> None:
        self._db = db
        self._bells = bells
        self._clock = clock
        self._lease: Lease | None = None
        """What is handed over by the transaction under way."""
        self._is_told = False
        self._ahead: tuple[bytes, Lease | None] = (b"", None)
        """A note that was read while its caller was at the commit, and what it says."""

    def make(self, alone: Alike, seq: int, now: int) -> bool:
        """Have the message of `alone` leased to one who waits for it; say whether it is.

        It is not if nobody waits so, or if it is not its turn.
        """
        if len(alone.args[0]) > LONGEST_NOTE or not self._bells.reach(alone.pattern.queue):
            return False
        (message,) = alone
        expiry = self._clock.boot_ms() + message.visibility_timeout_ms
        lease = Lease(message, 1, 0, 0, 0, expiry, seq)
        note = notes.note_of(lease)
        if len(note) > LONGEST_NOTE:
            note = b""  # it is to look, then
        if not self._bells.call(note) or not note:
            return False
        self._db.run("hand_over", seq=seq, now=now, expiry=expiry)
        self._lease = lease if self._db.connection.changes() else None
        return self._lease is not None

    def tell(self) -> None:
        """Tell whom was called, of its lease or to look: after the commit, within the lock."""
        self._is_told = self._bells.tell(is_handed=self._lease is not None)

    def undo(self) -> None:
        """Have whom was called look: nothing is committed, and its seq may be another's soon."""
        self._lease = None
        self._bells.tell(is_handed=False)

    def finish(self, broker: Broker) -> bool:
        """End it, after the lock; say whether somebody was called, so that nobody is to be rung.

        If whom was called has died since, or closed its bell, the message goes back at once, and
        not when its lease runs out.
        """
        lease, self._lease = self._lease, None
        if lease is not None and not self._is_told:
            with contextlib.suppress(BrokerError):
                broker.settle([Settlement(lease, Release())])
        return lease is not None or self._is_told

    def listen(self, queues: Sequence[str]) -> bool:
        """Hear the bell, and wait a little for who calls; say whether a ring is owed."""
        return self._bells.listen(partial(self._get_ready, queues))

    def _get_ready(self, queues: Sequence[str]) -> None:
        """Do, while the caller is at its commit, what would else be done after it."""
        note = self._bells.called_for
        self._ahead = note, notes.read(note, Lease)
        self._bells.arm_ahead(queues)

    def _read(self, note: bytes) -> Lease | None:
        ahead, lease = self._ahead
        return lease if note is ahead else notes.read(note, Lease)

    def taken(self, broker: Broker, queues: Sequence[str], limit: int) -> list[Lease]:
        """Return what was handed over to this waiter; what is not wanted is given back.

        What another version of dibs handed over is not taken, and its lease runs out.
        """
        found = [self._read(note) for note in self._bells.handed]
        leases = [lease for lease in found if lease is not None]
        wanted = taken(broker, leases, queues, limit, self._clock.boot_ms())
        self._bells.handed.clear()
        if wanted:
            held_ms = min(lease.message.visibility_timeout_ms for lease in wanted)
            self._db.hurry(held_ms / 6_000)  # a late renewal loses a lease
        return wanted

    def give_back(self, broker: Broker) -> None:
        """Give back what is handed over to this waiter, which asks for nothing any more."""
        if self._bells.may_be_called:
            self._db.write(self._bells.drain)
            self._bells.may_be_called = False
        self.taken(broker, (), 0)
