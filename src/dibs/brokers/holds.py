"""What a Broker object knows of its leases, for a server that cannot refuse a stale settlement.

Owns: until when each lease is surely its holder's, on a clock that counts the time asleep, as the
server's does, and how it was ended.
Must never: call a lease current whose time is over: then another may hold its message.
Called by: adapters whose `native_fence` is False.

A lease granted by another Broker object of the same machine is known by its own expiry.
"""

from collections.abc import Sequence

from msgspec import Struct

from dibs.brokers.contract import GONE, STALE, Gone, Settled, Stale, Unknown
from dibs.brokers.wire import Past
from dibs.message import Ack, Attempt, DeadLetter, Lease, Message, Outcome, Settlement

_FIRST_SWEEP = 1_000


class Hold(Struct):
    """A lease as its holder knows it. `key` is the server's name for it, which may change.

    `taken` is when the claim left, `until` when the lease is over, both in seconds of that clock.
    `attempts` are those of the message, `headers` too, whatever its holder does to its own.
    `copied`: what follows it is stored, and only it is left. `sent` is the server's name for a copy
    that is to take its place, until it does. `why` it could not be ended, when that was last tried.
    """

    key: str
    taken: float
    until: float
    attempts: tuple[Attempt, ...] = ()
    headers: dict[str, str] | None = None
    copied: bool = False
    sent: str | None = None
    why: str = ""
    ended: Gone | Stale | None = None


class Holds:
    """Every lease that is not over, by its receipt."""

    def __init__(self) -> None:
        self._known: dict[str, Hold] = {}
        self._sweep_at = _FIRST_SWEEP

    def granted(self, message: Message, past: Past, hold: Hold, now: float) -> Lease:
        """Remember a lease, and return it."""
        if len(self._known) >= self._sweep_at:
            self._known = {key: one for key, one in self._known.items() if one.until > now}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._known))
        fence, expiry_ms = past.fence + 1, round(hold.until * 1_000)
        receipt = f"{fence} {hold.key}"
        self._known[receipt] = hold
        return Lease(message, fence, past.failures, past.crashes, past.lost, expiry_ms, receipt)

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

    def first(
        self, settlements: Sequence[Settlement], now: float
    ) -> dict[int, tuple[Settlement, Hold]]:
        """Return the first settlement of each lease that is held, by its place, with the hold."""
        held: dict[int | str, tuple[int, Settlement, Hold]] = {}
        for i, one in enumerate(settlements):
            if isinstance(hold := self.of(one.lease, now), Hold):
                held.setdefault(one.lease.receipt, (i, one, hold))
        return {i: (one, hold) for i, one, hold in held.values()}

    def answer(self, lease: Lease, now: float) -> Settled:
        """Say what a settlement that is not known to have taken effect is answered."""
        hold = self.of(lease, now)
        return Unknown(hold.why) if isinstance(hold, Hold) else hold

    def end(self, hold: Hold, outcome: Outcome) -> None:
        """Note that a lease ended: by its message, or only for its holder."""
        hold.ended = GONE if isinstance(outcome, Ack | DeadLetter) else STALE
        hold.attempts = ()
