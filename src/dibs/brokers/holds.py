"""What a Broker object knows of its leases, for a server that cannot refuse a stale settlement.

Owns: until when each lease is surely its holder's, on the monotonic clock, and how it was ended.
Must never: call a lease current whose time is over: then another may hold its message.
Called by: adapters whose `native_fence` is False.

A lease granted by another Broker object of the same machine is known by its own expiry.
"""

from msgspec import Struct

from dibs.brokers.contract import GONE, STALE, UNKNOWN, Gone, Settled, Stale
from dibs.message import Ack, Attempt, DeadLetter, Lease, Outcome

_FIRST_SWEEP = 1_000


class Hold(Struct):
    """A lease as its holder knows it. `key` is the server's name for it, which may change.

    `taken` is when the claim left, `until` when the lease is over, both in monotonic seconds.
    `attempts` are those of the message, `headers` too, whatever its holder does to its own.
    `copied`: what follows it is stored, and only it is left. `sent` is the server's name for a copy
    that is to take its place, until it does.
    """

    key: str
    taken: float
    until: float
    attempts: tuple[Attempt, ...] = ()
    headers: dict[str, str] | None = None
    copied: bool = False
    sent: str | None = None
    ended: Gone | Stale | None = None


class Holds:
    """Every lease that is not over, by its receipt."""

    def __init__(self) -> None:
        self._known: dict[str, Hold] = {}
        self._sweep_at = _FIRST_SWEEP

    def granted(self, fence: int, hold: Hold, now: float) -> str:
        """Remember a lease; return its receipt."""
        if len(self._known) >= self._sweep_at:
            self._known = {key: one for key, one in self._known.items() if one.until > now}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._known))
        receipt = f"{fence} {hold.key}"
        self._known[receipt] = hold
        return receipt

    def of(self, lease: Lease, now: float) -> Hold | Gone | Stale:
        """Return the hold on a lease, or why there is none."""
        receipt = str(lease.receipt)
        fence, _, key = receipt.partition(" ")
        if not key:
            return GONE
        until = lease.expiry_ms / 1_000
        taken = until - lease.message.visibility_timeout_ms / 1_000
        hold = self._known.get(receipt) or Hold(key, taken, until)
        if hold.ended is not None:
            return hold.ended
        if fence != str(lease.fence) or now >= hold.until:
            return STALE
        self._known[receipt] = hold
        return hold

    def answer(self, lease: Lease, now: float) -> Settled:
        """Say what a settlement that is not known to have taken effect is answered."""
        hold = self.of(lease, now)
        return UNKNOWN if isinstance(hold, Hold) else hold

    def end(self, hold: Hold, outcome: Outcome) -> None:
        """Note that a lease ended: by its message, or only for its holder."""
        hold.ended = GONE if isinstance(outcome, Ack | DeadLetter) else STALE
        hold.attempts = ()
