"""What was handed over to a waiter: leased to it by whoever published it, and not taken yet.

Owns: what becomes of it when the waiter claims. Must never: let a holder count from now the time of
a lease that is much older. Called by: brokers whose waiters are handed messages.
"""

from collections.abc import Callable, Sequence

from dibs.brokers.contract import UNKNOWN, Broker, Claim, Held
from dibs.errors import BrokerError, BrokerUnavailable
from dibs.message import Lease, Release, Settlement

TRIES = 3
"""How often what is not wanted is given back, as far as that got no answer."""

OLD_MS = 50
"""A lease is renewed when it is taken if it is older: by so much its holder may count too long."""

LOOK_AGAIN_SECONDS = 0.01
"""Whom something was handed to is rung until then, as those who have some."""


def claimed(
    limit: int, handed: Callable[[int], list[Lease]], granted: Callable[[], Claim]
) -> Claim:
    """Return what was handed over, or else what the server grants, and what came meanwhile.

    `handed` takes so many at most of what was handed over.
    """
    if limit and (leases := handed(limit)):
        return Claim(leases, LOOK_AGAIN_SECONDS)
    found = granted()
    try:
        leases = handed(limit - len(found.leases))
    except BrokerError:
        if not found.leases:
            raise
        # What is granted must get out.
        return Claim(found.leases, 0, still_asks=len(found.leases) == limit)
    return Claim([*found.leases, *leases], 0) if leases else found


def taken(
    broker: Broker, leases: list[Lease], queues: Sequence[str], limit: int, now_ms: int
) -> list[Lease]:
    """Return what is wanted of `leases`, all of this waiter; what is not is given back.

    What is wanted and has lain here is renewed first, as its holder counts its time from now.
    `now_ms` is on the clock of their expiry.

    Raises:
        BrokerError: nothing of it has happened; it is all to be taken later.
        BrokerUnavailable: whether they are renewed is not known; they are to be taken later.
    """
    wanted = [lease for lease in leases if lease.message.queue in queues][:limit]
    _give_back(broker, [lease for lease in leases if lease not in wanted])
    if any(_is_old(lease, now_ms) for lease in wanted):
        answers = broker.extend(wanted)
        if UNKNOWN in answers:
            raise BrokerUnavailable(f"{broker.url}: no answer to the renewal of leases")
        held = zip(wanted, answers, strict=True)
        wanted = [lease for lease, answer in held if isinstance(answer, Held)]
    return wanted


def _give_back(broker: Broker, leases: list[Lease]) -> None:
    """Return leases; what got no answer is returned again, for its holder has forgotten it."""
    left = [Settlement(lease, Release()) for lease in leases]
    for _ in range(TRIES):
        if not left:
            return
        answers = broker.settle(left)
        left = [one for one, answer in zip(left, answers, strict=True) if answer is UNKNOWN]


def _is_old(lease: Lease, now_ms: int) -> bool:
    return now_ms - lease.expiry_ms + lease.message.visibility_timeout_ms > OLD_MS
