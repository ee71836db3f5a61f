"""The pump: the loop that alone talks to the broker.

Owns: every lease of this worker, from claim to settlement, and the order of a tick: hear what came
back, settle it, extend what is due, look after what runs too long, claim the free room and hand it
out, and say when the next tick is due.
Must never: run or import user code, wait, read a clock but the one it is passed, or sleep on an
error: trouble with the broker is a time before which it is not called.
Called by: the service, which waits between two ticks.

What it keeps of docs/contract.md: what a dead runner was running is charged and what it had queued
is not; a claim asks for the free room and no more; every settlement carries its lease's fence.
"""

import math
from collections.abc import Iterable, Sequence

from dibs.brokers.contract import Broker, Claim
from dibs.errors import BrokerError
from dibs.events import Holding, RunnerDied
from dibs.message import Error, Outcome, Release, TaskInfo
from dibs.policy import after_crash
from dibs.runners.contract import Done, Hello, ImportFailed, Slow, Up
from dibs.worker.crew import Crew, Member
from dibs.worker.dispatch import Dispatcher
from dibs.worker.leases import Leases
from dibs.worker.patience import Patience
from dibs.worker.records import Records
from dibs.worker.seams import Seams
from dibs.worker.settler import Settler
from dibs.worker.upkeep import Upkeep

SAFETY_POLL_SECONDS = 1.0
"""A bell can be lost with the process that rang it, so an idle worker looks this often."""

LOOK_BEHIND_SECONDS = 1.0
"""How long a job waits behind process jobs that wait for a runner here, if it is before them."""


class Pump:
    """One worker's pump. `grace_seconds` is how long a condemned runner's other jobs may take."""

    def __init__(
        self,
        *,
        broker: Broker,
        queues: Sequence[str],
        crew: Crew,
        tasks: dict[str, TaskInfo],
        seams: Seams,
        grace_seconds: float,
    ) -> None:
        self._broker = broker
        self._queues = queues
        self._crew = crew
        self._tasks = tasks
        self._clock = seams.clock
        self._observe = seams.observe
        self._grace = grace_seconds
        self.leases = Leases()
        self._patience = Patience(seams.clock, seams.observe)
        self.settler = Settler(broker, self._patience, seams)
        self._upkeep = Upkeep(
            broker=broker,
            leases=self.leases,
            crew=crew,
            settler=self.settler,
            tasks=tasks,
            patience=self._patience,
            seams=seams,
        )
        self._records = Records(broker, self.settler, tasks, self._patience, seams.observe)
        self._dispatcher = Dispatcher(crew, self.leases, self.settler, tasks, seams.observe)
        self._told_held = 0
        self._claim_at = self._attend_at = self._look_behind_at = 0.0
        """The last: when to claim again from a queue whose process jobs wait for a runner here."""
        self._stopping = self._drained = False
        self._asks = self._declines = False
        """Whether the broker rings this worker; and whether it is yet to hear that it must not."""

    def tick(self, rung: bool, alone: bool = False) -> float | None:
        """Do all that is due; return when the next tick is, or None if nothing ever is.

        `rung` says that the broker's bell is readable, `alone` that nothing else is. The answer is
        in seconds of the clock's `monotonic`.
        """
        now = self._clock.monotonic()
        if rung:
            self._claim_at = now
        held_before = self.held
        if not alone:  # the start of a new job need not wait for a look at every runner
            self._hear(now)
        self._serve_waiting(now)  # before a commit: a suspect waits for no more than the last one
        self.settler.settle(now)
        if held_before and not self.held:
            self._claim_at = now  # one more look before anybody calls this drained
        self._upkeep.extend(now)
        self._upkeep.watch(now)
        self._attend(now)
        self._claim(now, rung)
        self._serve_waiting(now)
        self.settler.settle(now)
        self._tell_held()
        return self._next_tick(now)

    def listens(self) -> bool:
        """Whether a ringing bell matters now: else it would only wake the loop for ever."""
        now = self._clock.monotonic()
        can_claim = not self._stopping and self._patience.allows(now)
        return can_claim and (self._asks or self._room(now) > 0)

    @property
    def over(self) -> bool:
        """Whether a stopping pump has nothing left to do: nothing is held, or handed to it."""
        return not self.held and not self._declines

    @property
    def drained(self) -> bool:
        """Whether nothing is held here, and a claim made since then found nothing."""
        return self._drained

    @property
    def held(self) -> int:
        """How many leases are not settled."""
        return len(self.leases) + len(self.settler)

    def stop(self) -> None:
        """Claim nothing more and take back what has not started."""
        self._stopping = True
        self._crew.wind_down()
        self._end([(serial, Release()) for serial in self._dispatcher.waiting])
        self._dispatcher.waiting.clear()
        self._ask_no_more()

    def abandon(self) -> int:
        """Release everything that is still running, its runners killed before; return how many."""
        released = list(self.leases)
        self._end([(serial, Release()) for serial, _ in released])
        self.settler.settle(self._clock.monotonic())
        self._tell_held()
        return len(released)

    def _tell_held(self) -> None:
        if len(self.leases) != self._told_held:
            self._told_held = len(self.leases)
            self._observe(Holding(self._told_held))

    # Hearing

    def hear_last(self) -> None:
        """Take in what runners have sent, also those that are dead, and bury nobody."""
        now = self._clock.monotonic()
        for member, frame in self._crew.receive():
            self._hear_frame(member, frame, now)

    def _hear(self, now: float) -> None:
        # The dead first: a runner's last frames are read after it was seen dead and before it is
        # buried, so an outcome that it sent is never mistaken for a crash.
        dead = self._crew.deaths()
        self.hear_last()
        for member, how in dead:
            self._bury(member, how, now)

    def _hear_frame(self, member: Member, frame: Up, now: float) -> None:
        match frame:
            case Done(acked, others, took_ns):
                count, leases = self.leases.take(acked)
                self.settler.ack(leases)
                count += self._end(others)
                member.answered(count, took_ns / 1e9, now)
                if acked:
                    member.moves()
            case Slow():
                self._upkeep.warn(frame)
            case Hello(_, tasks, _):
                self._tasks.update({info.name: info for info in tasks})
                self._claim_at = now
            case ImportFailed(text):
                member.last_words = text

    def _end(self, outcomes: Iterable[tuple[int, Outcome]]) -> int:
        """Settle leases by their serials; return how many of them were held."""
        held, ends = self.leases.end(outcomes)
        self.settler.add_all(ends)
        return held

    def _bury(self, member: Member, how: str, now: float) -> None:
        running = member.runner.last()
        held_by_it = self.leases.of(member.number)
        starts = member.runner.running()
        newest = max(starts, key=starts.__getitem__, default=None)
        error = Error("RunnerDied", f"the process running it died: {how}")
        for serial, lease in held_by_it:
            crashed = serial in running and not member.killed
            if crashed and serial == newest:
                self._dispatcher.prime_suspect = lease.message.id
            self._end([(serial, after_crash(lease, error) if crashed else Release())])
        if not member.killed and not (self._stopping and not held_by_it):
            charged = sum(serial in running for serial, _ in held_by_it)
            self._crew.want_solos(charged, now)  # they come back as suspects, and soon
            queued = len(held_by_it) - charged
            status = f"{how}: {member.last_words}" if member.last_words else how
            self._observe(RunnerDied(member.runner.pid, status, charged, queued))
        self._crew.bury(member, now, replace=not self._stopping)

    # Claiming

    def _room(self, now: float) -> int:
        """Return how many jobs can be taken: every slot counts, also those of solo runners.

        What the broker left unanswered takes up room, or it would grow while every job fails.
        """
        solos = self._crew.solo_room(len(self._dispatcher.waiting), now)
        return self._crew.room(now) - solos - self.settler.doubtful

    def _claim(self, now: float, rung: bool) -> None:
        if not self._patience.allows(now):
            return
        if self._declines and (self._stopping or self._room(now) <= 0):
            self._ask_no_more()
            return
        if self._stopping or now < self._claim_at:
            return
        # Not `now`: settling took its time, and the room is looked at again as of this moment.
        asked_at = self._clock.monotonic()
        room = min(self._room(asked_at), self._broker.capabilities.batch_limit)
        if room <= 0:
            if rung and self._asks:
                self._ask_no_more()
            return
        try:
            claim = self._broker.claim(self._open_queues(now), room)
        except BrokerError as exc:
            self._patience.failed(exc)
            return
        self._patience.worked(now)
        self._asks = len(claim.leases) < room
        self._declines = claim.still_asks
        idle_already, self._drained = self._drained, self._is_empty(claim)
        if len(claim.leases) < room:
            wait = SAFETY_POLL_SECONDS if claim.next_in is None else claim.next_in
            self._claim_at = now + min(SAFETY_POLL_SECONDS, wait)
        if claim.leases:
            leases, looked = self._records.sift(claim.leases)
            if looked:
                self._claim_at = now  # to look drains the bell, and what rang it must be found
            self._dispatcher.hand_out(leases, asked_at)
        elif idle_already and self._drained:
            # Not right after work: chores make the next commit, which may come soon, take longer.
            self._idle()

    def _ask_no_more(self) -> None:
        """Have others be rung, and be given what has come with a ring: here is no room for it.

        Until the broker has heard of it, that has a lease which nobody renews.
        """
        try:
            claim = self._broker.claim(self._queues, 0)
        except BrokerError as exc:
            self._declines = True
            self._patience.failed(exc)
        else:
            self._asks, self._declines = False, claim.still_asks
            self._patience.worked(self._clock.monotonic())

    def _is_empty(self, claim: Claim) -> bool:
        """Whether a claim says that nothing is left; one that says "look at once" knows of more."""
        return not claim.leases and not self.held and claim.next_in != 0 and claim.sure

    def _attend(self, now: float) -> None:
        """Call a broker that takes silence for death, also when there is nothing to ask it."""
        every = self._broker.capabilities.attend_seconds
        if every is not None and now >= self._attend_at and self._patience.allows(now):
            self._attend_at = now + every
            self._idle()

    def _idle(self) -> None:
        try:
            self._broker.idle()
        except BrokerError as exc:
            self._patience.failed(exc)

    def _open_queues(self, now: float) -> Sequence[str]:
        """Return the queues to claim from: not those whose process jobs already wait for a runner.

        Claiming more of them would only hoard what another worker could run. Once a second they are
        all the same: a job of another kind, first in the queue, must not wait for a runner it does
        not need.
        """
        waiting = self._dispatcher.waiting_processes()
        if len(waiting) < self._crew.solos or now >= self._look_behind_at:
            self._look_behind_at = now + LOOK_BEHIND_SECONDS
            return self._queues
        blocked = {lease.message.queue for lease in waiting}
        return [queue for queue in self._queues if queue not in blocked]

    def _serve_waiting(self, now: float) -> None:
        if self._dispatcher.serve_waiting(now):
            self._claim_at = now  # the queue of a process task may be open again

    def _next_tick(self, now: float) -> float | None:
        times = [self.leases.next_look]
        tend_at = self._crew.tend(now, self._grace)
        if tend_at is not None:
            times.append(tend_at)
        if not self._patience.allows(now):
            times.append(self._patience.retry_at)
        else:
            times += (self.leases.next_extend, self.settler.again_at)
            if self._broker.capabilities.attend_seconds is not None:
                times.append(self._attend_at)
            if not self._stopping and self._room(now) > 0:
                times.append(max(self._claim_at, now))
            if self._declines:
                times.append(now)
        at = min(times)
        return None if math.isinf(at) else at
