"""What a live broker does with one message: the promises, tried out on a queue of their own.

Owns: the steps of the probe, and what each answer says of the contract.
Must never: touch any other queue than `QUEUE`, leave a message there, or wait without a limit.
Called by: `doctor.py`.
"""

import os
import select
from collections.abc import Iterator

from dibs.brokers.contract import (
    MIN_VISIBILITY_TIMEOUT_MS,
    Applied,
    Broker,
    Finding,
    Gone,
    Stale,
    Stored,
)
from dibs.clock import Clock
from dibs.errors import BrokerRefused
from dibs.message import Ack, Lease, Message, Outcome, Settlement

QUEUE = "dibs-doctor"
"""Its own, and always the same one: a broker may keep the name for good."""

LATE_SECONDS = 5.0
"""How much later than promised a message may come before the probe says so."""

STEP_SECONDS = 0.02


def probe(first: Broker, second: Broker, clock: Clock) -> Iterator[Finding]:
    """Try the promises on two connections to one broker; yield what was found.

    The probe is over at the first promise that is not kept: what comes after would say nothing. It
    is not made where the broker refuses the queue: then its settings say what to mend.
    """
    try:
        for broker in (first, second):
            broker.declare([QUEUE])
    except BrokerRefused as refused:
        yield Finding("probe", "not made: its queue is refused", "bad", str(refused))
        return
    first.inspector().purge(QUEUE)
    yield from _Probe(first, second, clock).run()


class _Probe:
    def __init__(self, first: Broker, second: Broker, clock: Clock) -> None:
        self._first = first
        self._second = second
        self._clock = clock

    def run(self) -> Iterator[Finding]:
        """Publish, lease, let the lease run out, settle stale and late, acknowledge twice."""
        yield (stored := self._stored())
        if stored.verdict == "bad":
            return
        began = self._clock.monotonic()
        old = self._granted(self._first, LATE_SECONDS)
        if old is None:
            yield Finding("claim", "what was stored is not granted", "bad", "is the queue paused?")
            return
        yield self._hidden()
        new = self._lease_after(old)
        if new is None:
            yield _not_back(old)
            return
        held = self._clock.monotonic() - began
        yield Finding("lease", f"1 s asked for, granted again after {held:.2f} s", "good")
        yield self._fence(old, new)
        yield self._done(new)

    def _stored(self) -> Finding:
        lease = MIN_VISIBILITY_TIMEOUT_MS
        message = Message(os.urandom(16), QUEUE, "probe", b"{}", visibility_timeout_ms=lease)
        began = self._clock.monotonic()
        (answer,) = self._first.publish([message])
        took = (self._clock.monotonic() - began) * 1_000
        if not isinstance(answer, Stored):
            return Finding("publish", f"not confirmed: {answer}", "bad", "see the settings below")
        return Finding("publish", f"confirmed after {took:.2g} ms", "good")

    def _hidden(self) -> Finding:
        if self._second.claim([QUEUE], 1).leases:
            return Finding("exclusive", "two connections were granted one message", "bad")
        return Finding("exclusive", "granted to one connection, hidden from the other", "good")

    def _lease_after(self, old: Lease) -> Lease | None:
        return self._granted(self._second, old.message.visibility_timeout_ms / 1_000 + LATE_SECONDS)

    def _fence(self, old: Lease, new: Lease) -> Finding:
        if new.fence <= old.fence:
            return Finding("fence", f"{new.fence} after {old.fence}: it must grow", "bad")
        answer = self._settled(self._first, old, Ack())
        by = "the broker" if self._first.capabilities.native_fence else "dibs, which never sends it"
        if isinstance(answer, Stale):
            return Finding("stale ack", f"refused by {by}", "good")
        return Finding("stale ack", f"not refused: {answer}", "bad", "report this: it is a fault")

    def _done(self, lease: Lease) -> Finding:
        answers = [self._settled(self._second, lease, Ack()) for _ in range(2)]
        if [type(answer) for answer in answers] == [Applied, Gone]:
            return Finding("ack", "applied once, and gone after that", "good")
        return Finding("ack", f"answered {answers[0]}, and then {answers[1]}", "bad")

    def _settled(self, broker: Broker, lease: Lease, outcome: Outcome) -> object:
        (answer,) = broker.settle([Settlement(lease, outcome)])
        return answer

    def _granted(self, broker: Broker, seconds: float) -> Lease | None:
        """Claim until something is granted; both brokers are stepped, as two workers would be."""
        deadline = self._clock.monotonic() + seconds
        other = self._second if broker is self._first else self._first
        while self._clock.monotonic() < deadline:
            if leases := broker.claim([QUEUE], 1).leases:
                return leases[0]
            other.idle()
            select.select([broker.bell()], [], [], STEP_SECONDS)
        return None


def _not_back(old: Lease) -> Finding:
    seconds = old.message.visibility_timeout_ms / 1_000 + LATE_SECONDS
    return Finding("lease", f"1 s asked for, and not granted again within {seconds:.0f} s", "bad")
