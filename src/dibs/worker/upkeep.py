"""Lease upkeep: renew what is held, end what runs too long, and tell jobs that lost their lease.

Owns: the heartbeat of every lease (a third of its visibility timeout), the timeout of every run,
and that a task which comes near a limit is told of once, whichever runner it was in.
Must never: depend on user code: it runs in the pump's process, whatever a task does to its own; or
let a renewal that is not answered hold up those of others, or anything else.
Called by: the pump, in each tick.
"""

import math

from dibs.brokers.contract import Broker, Lost, Unknown
from dibs.errors import BrokerError, BrokerUnavailable
from dibs.events import LeaseLost, RunnerCondemned, TaskSlow
from dibs.message import Lease, Release, TaskInfo
from dibs.policy import after_failure, timed_out
from dibs.runners.contract import Slow, StopJob
from dibs.worker.crew import Crew
from dibs.worker.leases import WAITING, Batch, Leases
from dibs.worker.patience import FIRST_RETRY_SECONDS, Patience
from dibs.worker.seams import Seams
from dibs.worker.settler import Settler

TOGETHER_SECONDS = 0.1
"""What is due within this time is renewed too: each renewal is a commit, whatever it holds."""

_LOST = "answers to renewals got lost"

STOP_GRACE_SECONDS = 1.0
"""How long a run that was told of its timeout may take to end by itself, a third of its visibility
timeout at most: its lease is renewed no more, and must still be held when the run is failed."""


class Upkeep:
    """Looks after the leases in `leases`."""

    def __init__(
        self,
        *,
        broker: Broker,
        leases: Leases,
        crew: Crew,
        settler: Settler,
        tasks: dict[str, TaskInfo],
        patience: Patience,
        seams: Seams,
    ) -> None:
        self._broker = broker
        self._leases = leases
        self._crew = crew
        self._settler = settler
        self._tasks = tasks
        self._patience = patience
        self._doubts = Patience(seams.clock, seams.observe)
        """For what the broker answered, but not how: it can be called for everything else."""
        self._sure: dict[int, float] = {}
        """When the last answered request left for each lease of a batch that has one in doubt."""
        self._observe = seams.observe
        self._uniform = seams.uniform
        self._clock = seams.clock
        self._slow: set[tuple[str, str]] = set()
        """The tasks that came near a limit, and the option that sets it."""

    def warn(self, slow: Slow) -> None:
        """Tell of a run that came near a limit, once for each task and option."""
        key = (slow.task, slow.option)
        if key not in self._slow:
            self._slow.add(key)
            advised = math.ceil(2 * slow.ran_seconds)
            self._observe(
                TaskSlow(slow.task, slow.option, slow.ran_seconds, slow.limit_seconds, advised)
            )

    def extend(self, now: float) -> None:
        """Renew what is due."""
        if now < self._leases.next_extend or not self._patience.allows(now):
            return
        due = self._leases.due(now + TOGETHER_SECONDS)
        left = [
            pair for batch in due for pair in self._leases.left_of(batch) if self._renews(*pair)
        ]
        doubtful = self._doubtful(left)
        for batch in due:
            self._note(batch, doubtful, now)
        self._sure = {serial: at for serial, at in self._sure.items() if serial in self._leases}
        if not self._sure:
            self._doubts.worked(now)
        self._leases.plan_extend(self._patience.retry_at)

    def _doubtful(self, left: list[tuple[int, Lease]]) -> set[int]:
        """Renew leases; return the serials of those that are not known to be renewed."""
        limit = self._broker.capabilities.batch_limit
        doubtful: set[int] = set()
        why = ""
        for start in range(0, len(left), limit):
            part = left[start : start + limit]
            try:
                answers = self._broker.extend([lease for _, lease in part])
            except BrokerError as exc:
                self._patience.failed(exc)
                return doubtful | {serial for serial, _ in left[start:]}
            for (serial, lease), answer in zip(part, answers, strict=True):
                if isinstance(answer, Lost):
                    self._lose(serial, lease)
                elif isinstance(answer, Unknown):
                    doubtful.add(serial)
                    why = why or answer.why or _LOST
            if not doubtful.issuperset(serial for serial, _ in part):
                self._patience.worked(self._clock.monotonic())
        if doubtful:
            self._doubts.failed(BrokerUnavailable(why))
        return doubtful

    def _note(self, batch: Batch, doubtful: set[int], now: float) -> None:
        """Note that a batch was renewed; or which leases of it were, to ask for all again soon."""
        left = self._leases.left_of(batch)
        if doubtful.isdisjoint([serial for serial, _ in left]):
            for serial, _ in left:
                self._sure.pop(serial, None)
            self._leases.renewed(batch, now)
            return
        again_at = now + FIRST_RETRY_SECONDS
        if any(serial in self._sure for serial, _ in left):
            again_at = self._doubts.retry_at
        for serial, _ in left:
            at = self._sure.get(serial, batch.renewed_at)
            self._sure[serial] = at if serial in doubtful else now
        self._lose_overdue(batch, now)
        # Again at the next heartbeat at the latest, which those that were renewed need.
        self._leases.renewed(batch, min(now, again_at - batch.heartbeat_seconds))

    def _renews(self, serial: int, lease: Lease) -> bool:
        """Whether a lease is renewed: not after it was lost or its run was told to end."""
        info = self._tasks.get(lease.message.task)
        # What waits here has not begun: it is silent from its start only.
        begun = self._leases.member_of(serial) != WAITING
        silent = begun and info is not None and not info.heartbeat
        return not silent and serial not in self._leases.lost and serial not in self._leases.told

    def _lose_overdue(self, batch: Batch, now: float) -> None:
        """Where the broker cannot refuse a stale settlement, our own deadline does."""
        if self._broker.capabilities.native_fence:
            return
        for serial, lease in self._leases.left_of(batch):
            over_at = self._sure[serial] + lease.message.visibility_timeout_ms / 1_000
            if now >= over_at and serial not in self._leases.lost:
                self._lose(serial, lease)

    def _lose(self, serial: int, lease: Lease) -> None:
        member = self._crew.members.get(self._leases.member_of(serial))
        self._observe(LeaseLost(lease, ran=member is not None))
        self._leases.lost.add(serial)
        if member is None:
            self._leases.take([serial])
        else:
            member.runner.send(StopJob(serial, "lease_lost"))

    def watch(self, now: float) -> None:
        """End the runs that are past their timeout, and compute when to look next."""
        if now < self._leases.next_look:
            return
        started: dict[int, float] = {}
        self._leases.forget_unstarted()
        for member in self._crew.members.values():
            started |= member.runner.running()
        self._leases.next_look = min(
            (
                self._watch(serial, lease, started.get(serial), now)
                for serial, lease in self._leases
            ),
            default=math.inf,
        )

    def _watch(self, serial: int, lease: Lease, started: float | None, now: float) -> float:
        """Look after one lease; return when to look again."""
        runs = lease.message.timeout_ms / 1_000
        if started is None:
            return self._watch_unstarted(serial, lease, now)
        self._leases.unstarted.pop(serial, None)
        if now < started + runs:
            return started + runs
        grace = min(STOP_GRACE_SECONDS, lease.message.visibility_timeout_ms / 3_000)
        told_at = self._leases.told.get(serial)
        if told_at is None:
            self._leases.told[serial] = now
            member = self._crew.members[self._leases.member_of(serial)]
            member.runner.send(StopJob(serial, "timeout"))
            return now + grace
        if now < told_at + grace:
            return told_at + grace
        self._give_up(serial, now)
        return math.inf

    def _watch_unstarted(self, serial: int, lease: Lease, now: float) -> float:
        """Bound how long a runner may sit on a job; one that waits in the pump is not forgotten."""
        if self._leases.member_of(serial) == WAITING:
            return now + lease.message.timeout_ms / 1_000
        until = self._leases.unstarted.setdefault(serial, now) + lease.message.timeout_ms / 1_000
        if now < until:
            return until
        member = self._crew.members[self._leases.member_of(serial)]
        held, found = self._leases.take([serial])
        member.outstanding -= held
        for free in found:
            self._settler.add(free, Release())
        self._crew.condemn(member, now)
        return math.inf

    def _give_up(self, serial: int, now: float) -> None:
        """Fail a run that did not end; its process is replaced, since a thread cannot be killed."""
        member = self._crew.members[self._leases.member_of(serial)]
        held, found = self._leases.take([serial])
        member.outstanding -= held
        for lease in found:
            backoff = self._tasks[lease.message.task].backoff
            outcome = after_failure(lease, timed_out(lease), backoff, self._uniform)
            self._settler.add(lease, outcome)
            self._observe(RunnerCondemned(member.runner.pid, lease))
        self._crew.condemn(member, now)
