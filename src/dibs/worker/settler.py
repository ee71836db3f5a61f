"""Outcomes on their way to the broker.

Owns: the settlements that the broker has not answered yet, and counting what became of them.
Must never: drop one that was not answered: an unknown answer is asked for again; or hold up
anything else for it, such as the renewal of other leases.
Called by: the pump.
"""

import math
from collections.abc import Sequence

from msgspec.structs import replace

from dibs.acked import Acked
from dibs.brokers.contract import APPLIED, UNKNOWN, Applied, Broker, Gone, Settled, Unknown
from dibs.errors import BrokerError, BrokerRefused, BrokerUnavailable
from dibs.events import JobFailed, LeaseLost
from dibs.events import Settled as SettledEvent
from dibs.message import Ack, DeadLetter, Lease, Nack, Outcome, Release, Settlement
from dibs.worker.patience import Patience
from dibs.worker.seams import Seams

_LOST = "answers to settlements got lost"


class Settler:
    """Settles in batches; what the broker could not answer stays and is sent again."""

    def __init__(self, broker: Broker, patience: Patience, seams: Seams) -> None:
        self._broker = broker
        self._patience = patience
        self._doubts = Patience(seams.clock, seams.observe)
        """For what the broker answered, but not how: it can be called for everything else."""
        self._observe = seams.observe
        self._limit = broker.capabilities.batch_limit
        self._acked: list[Lease] = []
        """The leases whose jobs are done and have no result, by far the most,"""
        self._waiting: list[Settlement] = []
        """and everything else."""
        self._again: list[Settlement] = []
        """Those that were answered by `Unknown`, to be sent again when `doubts` allow it."""
        self._unsure: set[tuple[bytes, int]] = set()
        """Id and fence of what was sent and not answered: `Gone` is then our own success."""

    def __len__(self) -> int:
        return len(self._acked) + len(self._waiting) + len(self._again)

    @property
    def doubtful(self) -> int:
        """How many are to be sent again: the broker did not say what became of them."""
        return len(self._again)

    @property
    def again_at(self) -> float:
        """When something is to be sent again."""
        return self._doubts.retry_at if self._again else math.inf

    def ack(self, leases: list[Lease]) -> None:
        """Settle leases whose jobs are done and have no result."""
        self._acked += leases

    def add(self, lease: Lease, outcome: Outcome) -> None:
        """Settle a lease."""
        self.add_all([Settlement(lease, outcome)])

    def add_all(self, settlements: list[Settlement]) -> None:
        """Settle leases."""
        self._waiting += settlements
        for settlement in settlements:
            outcome = settlement.outcome
            # Results come by the hundred thousand, and `isinstance` of a union takes its time.
            if type(outcome) is not Ack and isinstance(outcome, Nack | DeadLetter):
                self._observe(JobFailed(settlement.lease, outcome.error, outcome))

    def settle(self, now: float) -> None:
        """Send everything that waits, if the broker may be called."""
        if self._doubts.allows(now):
            self._waiting += self._again
            self._again = []
        if self._waiting:
            # All in one step, for each is a commit or a trip to a server.
            self._waiting += Acked(self._acked)
            self._acked = []
        while (batch := self._batch()) and self._patience.allows(now):
            answers: list[Settled]
            refused: BrokerRefused | None = None
            try:
                answers = self._broker.settle(batch)
            except BrokerRefused as exc:
                # These, and perhaps nothing else: the other leases must still be renewed.
                answers, refused = [UNKNOWN] * len(batch), exc
            except BrokerError as exc:
                self._unsure.update((s.lease.message.id, s.lease.fence) for s in batch)
                self._patience.failed(exc)
                return
            del (self._waiting or self._acked)[: len(batch)]
            before = len(self._again)
            self._note(batch, answers)
            doubtful = len(self._again) - before
            if refused is not None or doubtful < len(batch):
                self._patience.worked(now)
            if doubtful:
                whys = (one.why for one in answers if isinstance(one, Unknown) and one.why)
                self._doubts.failed(refused or BrokerUnavailable(next(whys, _LOST)))
            elif not self._again:
                self._doubts.worked(now)
            if doubtful == len(batch) and refused is None:
                return  # nobody answers, and each other batch would wait for that as long

    def _batch(self) -> Sequence[Settlement]:
        return self._waiting[: self._limit] or Acked(self._acked[: self._limit])

    def _note(self, batch: Sequence[Settlement], answers: list[Settled]) -> None:
        """Count what was applied, and keep what was not answered."""
        # list.count compares by identity first: thousands of good answers cost microseconds.
        if answers.count(APPLIED) == len(batch) and not self._unsure:
            self._observe(_count(batch))
            return
        applied: list[Settlement] = []
        late = 0
        for settlement, answer in zip(batch, answers, strict=True):
            lease = settlement.lease
            unsure = (lease.message.id, lease.fence) in self._unsure
            if isinstance(answer, Unknown):
                self._unsure.add((lease.message.id, lease.fence))
                self._again.append(settlement)
                continue
            self._unsure.discard((lease.message.id, lease.fence))
            if isinstance(answer, Applied) or (isinstance(answer, Gone) and unsure):
                applied.append(settlement)
                late += isinstance(answer, Applied) and answer.late
            else:
                self._lost(lease, settlement.outcome)
        self._observe(replace(_count(applied), late=late))

    def _lost(self, lease: Lease, outcome: Outcome) -> None:
        self._observe(LeaseLost(lease, ran=not isinstance(outcome, Release)))


def _count(settlements: Sequence[Settlement]) -> SettledEvent:
    if type(settlements) is Acked:
        return SettledEvent(done=len(settlements))
    outcomes = [settlement.outcome for settlement in settlements]
    kinds = [type(outcome) for outcome in outcomes]
    if kinds.count(Ack) == len(kinds):
        return SettledEvent(done=len(kinds))
    crashed = sum(isinstance(o, Nack) and o.charge == "crash" for o in outcomes)
    return SettledEvent(
        done=kinds.count(Ack),
        failed=kinds.count(Nack) - crashed,
        crashed=crashed,
        dead=kinds.count(DeadLetter),
        released=kinds.count(Release),
    )
