"""The crew: the worker's runners, who has room, and who takes the place of the dead.

Owns: starting, counting, condemning and replacing runners.
Must never: settle a lease or talk to the broker; it tells the pump what happened.
Called by: the pump.

Members are *shared* (many slots, `async def` and `def` jobs side by side) or *solo* (one slot, for
`runs_in="process"` tasks and suspects: it can be killed without a neighbour).
"""

import math
from collections.abc import Iterator

from dibs.events import Observer, RunnerNotStarted
from dibs.runners.contract import Await, Hello, Quit, Runner, Spawner, Start, Up, Withdraw
from dibs.worker.prefetch import Pace

STARTS_WITHIN_SECONDS = 0.5
"""A runner with a free slot that has not started a job after this time is blocked: longer than one
that only lacks the processor takes, for what is given back costs some brokers a copy."""

PROBE_SECONDS = 1.0
"""After this time a runner that did not start what it was given is tried again, with one job."""

SOLO_IDLE_SECONDS = 60.0
SPARE_AFTER_SECONDS = 2.0
"""When a solo runner is started that nobody needs yet: what ran in a dead runner goes on there at
once, and not after an interpreter's start. Not sooner, for the start of a worker has other work."""

FIRST_RESPAWN_SECONDS = 0.1
LONGEST_RESPAWN_SECONDS = 30.0


class Member:
    """One runner in the crew. `outstanding` counts the jobs it was given and has not answered.

    `look_at` is when to look whether it started what it was given. `probe_at`: it did not, as when
    a task blocks its event loop, and gets one job to try from then on.
    `condemned_at`: it takes no more jobs since then. `killed`: its death is our doing and charges
    nobody. `last_words` is why it could not import the app. `idle_since` is when it last ran dry.
    """

    def __init__(self, number: int, runner: Runner, solo: bool, now: float) -> None:
        self.number = number
        self.runner = runner
        self.solo = solo
        self.ready = False
        self.outstanding = 0
        self.look_at = math.inf
        self._given = 0
        self._awaited = 0  # of them those that went to its event loop directly
        self._expected = 0  # so many of them must have started by `look_at`
        self.probe_at: float | None = None
        self.condemned_at: float | None = None
        self.killed = False
        self.last_words = ""
        self.idle_since = now
        self.pace = Pace()

    def room(self, now: float) -> int:
        """Return how many more jobs it may be given at once."""
        if not self.ready or self.condemned_at is not None:
            return 0
        if self.probe_at is not None:
            return int(now >= self.probe_at and self.outstanding < self.runner.slots)
        slots = self.runner.slots
        most = slots + (0 if self.solo else self.pace.ahead(now))
        # Half at a time: it works on one half while the pump settles and claims the other. With the
        # whole, each of the two would wait for the other, in turn (benchmarks: `drain`).
        return max(0, min(most - self.outstanding, max(slots, most // 2)))

    def give(self, start: Start | Await, now: float) -> None:
        """Hand over jobs."""
        if not self.outstanding:
            self.pace.began(now)
        if self.probe_at is not None:
            self.probe_at = math.inf
        self.outstanding += len(start.leases)
        self._given += len(start.leases)
        if isinstance(start, Await):
            self._awaited += len(start.leases)
        if math.isinf(self.look_at):
            self._look_later(now)
        self.runner.send(start)

    def withdraw(self) -> None:
        """Take back what it has not started."""
        self.runner.send(Withdraw(0, self._awaited))

    def kill(self) -> None:
        """End it at once."""
        self.killed = True
        self.runner.kill()

    def answered(self, count: int, took_seconds: float, now: float) -> None:
        """Note that jobs came back, for which the runner had work for `took_seconds`."""
        self.outstanding -= count
        self.pace.finished(count, took_seconds, now)
        if not self.outstanding:
            self.idle_since = now

    def moves(self) -> None:
        """Note that a job of its ended well: nothing blocks it."""
        self.probe_at = None

    def look(self, now: float) -> float | None:
        """Take back what it was given and has not started; return when to look again."""
        if now >= self.look_at:
            started = self._given - self.outstanding + len(self.runner.running())
            self.look_at = math.inf
            if started < self._expected:
                self.withdraw()
                self.pace.stalled(now)
                self.probe_at = now + PROBE_SECONDS
            else:
                self.probe_at = None
                if self._given > self._expected:
                    self._look_later(now)
        times = [at for at in (self.look_at, self.probe_at) if at is not None and at < math.inf]
        return min(times, default=None)

    def _look_later(self, now: float) -> None:
        self._expected = self._given
        self.look_at = now + STARTS_WITHIN_SECONDS


class Crew:
    """All runners of one worker."""

    def __init__(self, spawn: Spawner, shared: list[int], solos: int, observe: Observer) -> None:
        self._spawn = spawn
        self._observe = observe
        self._shared = shared
        self.solos = solos
        self._numbers = 0
        self._respawn_seconds = FIRST_RESPAWN_SECONDS
        self._respawns: list[tuple[float, int]] = []
        self._spare_at = math.inf
        self._no_solo_before = 0.0
        self._winding_down = False
        self.members: dict[int, Member] = {}

    @property
    def slots(self) -> int:
        """How many jobs the shared runners run at a time."""
        return sum(self._shared)

    def start(self, now: float) -> None:
        """Start the shared runners."""
        for slots in self._shared:
            self._add(slots, solo=False, now=now)
        self._spare_at = now + SPARE_AFTER_SECONDS

    def shared(self) -> Iterator[Member]:
        """Return the members that run many jobs at a time."""
        return (m for m in self.members.values() if not m.solo)

    def room(self, now: float) -> int:
        """Return how many jobs the shared members can take now."""
        return sum(m.room(now) for m in self.shared())

    def want_solos(self, jobs: int, now: float) -> None:
        """Start what is missing of the solo members that `jobs` more jobs could use at once."""
        solos = [m for m in self.members.values() if m.solo and m.condemned_at is None]
        busy = sum(m.outstanding for m in solos)
        for _ in range(min(self.solos, busy + jobs) - len(solos)):
            self._add(1, solo=True, now=now)

    def solo_room(self, jobs: int, now: float) -> int:
        """Return how many slots the solo members take up, with `jobs` that wait for one."""
        busy = sum(m.outstanding for m in self.members.values() if m.solo)
        soon = 0 if now < self._no_solo_before else min(jobs, max(0, self.solos - busy))
        return busy + soon

    def free_solo(self, now: float) -> Member | None:
        """Return a solo member with room."""
        return next((m for m in self.members.values() if m.solo and m.room(now)), None)

    def receive(self) -> Iterator[tuple[Member, Up]]:
        """Yield the frames that have arrived."""
        for member in list(self.members.values()):
            for frame in member.runner.receive():
                if isinstance(frame, Hello):
                    member.ready = True
                    self._respawn_seconds = FIRST_RESPAWN_SECONDS
                yield member, frame

    def deaths(self) -> list[tuple[Member, str]]:
        """Return the members found dead and how, all their frames read before."""
        return [(m, how) for m in self.members.values() if (how := m.runner.death()) is not None]

    def bury(self, member: Member, now: float, *, replace: bool) -> None:
        """Take a dead member out; another takes its place, later each time if none gets ready."""
        del self.members[member.number]
        member.runner.close()
        if not replace or member.condemned_at is not None:
            return
        if not member.ready:
            self._start_later(member.runner.slots, solo=member.solo, now=now)
        elif member.solo:
            return  # started when it is wanted
        elif any(other.ready for other in self.shared()):
            # Solo runners for what it was running start first; its neighbours go on elsewhere.
            self._respawns.append((now + FIRST_RESPAWN_SECONDS, member.runner.slots))
        else:
            self._add(member.runner.slots, solo=False, now=now)

    def condemn(self, member: Member, now: float) -> None:
        """Give a member no more jobs, take back what it has not started, and replace it."""
        if member.condemned_at is None:
            member.condemned_at = now
            member.withdraw()
            if not member.solo:
                self._add(member.runner.slots, solo=False, now=now)

    def tend(self, now: float, grace_seconds: float) -> float | None:
        """Start who is due, end who is done with; return when to tend again."""
        due = [entry for entry in self._respawns if entry[0] <= now]
        self._respawns = [entry for entry in self._respawns if entry[0] > now]
        for _, slots in due:
            self._add(slots, solo=False, now=now)
        later = [at for at, _ in self._respawns]
        if now < self._no_solo_before:
            later.append(self._no_solo_before)
        if now >= self._spare_at and not any(m.solo for m in self.members.values()):
            self._add(1, solo=True, now=now)
        elif now < self._spare_at:
            later.append(self._spare_at)
        for member in list(self.members.values()):
            at = self._tend_member(member, now, grace_seconds)
            if at is not None:
                later.append(at)
        return min(later, default=None)

    def wind_down(self) -> None:
        """Start nobody any more, and take back from every member what it has not started."""
        self._winding_down = True
        self._respawns = []
        self._spare_at = math.inf
        for member in self.members.values():
            member.withdraw()

    def quit(self) -> None:
        """Tell every member to exit: nothing runs any more."""
        for member in self.members.values():
            member.runner.send(Quit())

    def kill(self) -> None:
        """End every member at once."""
        for member in self.members.values():
            member.kill()

    def _add(self, slots: int, *, solo: bool, now: float) -> None:
        if self._winding_down or (solo and now < self._no_solo_before):
            return
        try:
            runner = self._spawn(slots)
        except OSError as error:  # no process, memory or descriptor is to be had at this moment
            self._not_started(slots, error, solo=solo, now=now)
            return
        self._numbers += 1
        self.members[self._numbers] = Member(self._numbers, runner, solo, now)

    def _not_started(self, slots: int, error: OSError, *, solo: bool, now: float) -> None:
        again = self._start_later(slots, solo=solo, now=now)
        self._observe(RunnerNotStarted(str(error), again))

    def _start_later(self, slots: int, *, solo: bool, now: float) -> float:
        """Try again later, later each time; a solo runner, when it is wanted then."""
        again = self._respawn_seconds
        self._respawn_seconds = min(LONGEST_RESPAWN_SECONDS, 2 * again)
        if solo:
            self._no_solo_before = now + again
        else:
            self._respawns.append((now + again, slots))
        return again

    def _tend_member(self, member: Member, now: float, grace_seconds: float) -> float | None:
        if member.condemned_at is not None:
            if not member.outstanding or now >= member.condemned_at + grace_seconds:
                member.kill()
                return None
            return member.condemned_at + grace_seconds
        idle = member.solo and member.ready and not member.outstanding
        if idle and sum(m.solo for m in self.members.values()) > 1:
            if now >= member.idle_since + SOLO_IDLE_SECONDS:
                member.condemned_at = now
                member.runner.send(Quit())
                return None
            return member.idle_since + SOLO_IDLE_SECONDS
        if member.solo:
            return None
        if member.outstanding > member.runner.slots:
            if now >= member.pace.stalls_at():
                member.withdraw()
                member.pace.stalled(now)
            return member.pace.stalls_at()
        return member.look(now)
