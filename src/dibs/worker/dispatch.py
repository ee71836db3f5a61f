"""Who runs what was claimed.

Owns: the leases that wait in the pump for a runner of their own, and since when which task is
lacked here.
Must never: call the broker, or hold a lease that no runner has room for: what cannot be handed out
is settled, unrun.
Called by: the pump.
"""

from collections import deque

from dibs.events import Observer, TaskUnknown
from dibs.message import Lease, Release, TaskInfo
from dibs.policy import before_run, is_suspect
from dibs.runners.contract import Await, Start
from dibs.worker.crew import Crew, Member
from dibs.worker.leases import WAITING, Leases
from dibs.worker.settler import Settler

_MOST_LACKED = 1_000
_NO_ROOM_MS = 1_000
"""How long a suspect stays in the broker where enough of them wait for a runner of their own."""


class Dispatcher:
    """Hands leases to the members of the crew; `tasks` are those of the app, which may grow."""

    def __init__(
        self,
        crew: Crew,
        leases: Leases,
        settler: Settler,
        tasks: dict[str, TaskInfo],
        observe: Observer,
    ) -> None:
        self._crew = crew
        self._leases = leases
        self._settler = settler
        self._tasks = tasks
        self._observe = observe
        self.waiting: deque[int] = deque()
        """Serials of leases that wait for a solo runner."""
        self.prime_suspect = b""
        """Id of the job that a crash met last begun: what crashes mostly does so at its start."""
        self._lacked: dict[str, float] = {}
        """The tasks that jobs came for and this worker lacks, and since when."""

    def hand_out(self, leases: list[Lease], asked_at: float) -> None:
        """Give out what a claim that left at `asked_at` was granted."""
        shared: list[Lease] = []
        for lease in leases:
            info = self._tasks.get(lease.message.task)
            # A first claim has no counters, so there is no budget to look at: the common case.
            fresh = lease.fence == 1 and lease.message.version == 1
            if info is not None and fresh and info.kind != "process":
                shared.append(lease)
            else:
                self._hand_out_carefully(lease, info, shared, asked_at)
        members = sorted(self._crew.shared(), key=lambda m: m.room(asked_at))
        for left, member in zip(range(len(members), 0, -1), members, strict=True):
            # Rounded down, the fullest first: what does not divide goes to who has most room.
            share = min(len(shared) // left, member.room(asked_at))
            if share:
                self._give(member, shared[:share], asked_at)
                del shared[:share]
        for lease in shared:
            # A runner died between the look and the claim, and its room with it.
            self._settler.add(lease, Release())

    def serve_waiting(self, now: float) -> bool:
        """Give what waits to solo runners with room; say whether any of it waits no longer."""
        before = len(self.waiting)
        while self.waiting:
            serial = min(self.waiting, key=self._guilt)
            lease = self._leases.get(serial)
            if lease is not None:
                member = self._crew.free_solo(now)
                if member is None:
                    self._crew.want_solos(len(self.waiting), now)
                    break
                self._leases.assign(serial, member.number)
                member.give(Start(serial, [lease]), now)
            self.waiting.remove(serial)
        return len(self.waiting) < before

    def waiting_processes(self) -> list[Lease]:
        """Return the leases of process tasks, suspects apart, that wait for a runner."""
        leases = (self._leases.get(serial) for serial in self.waiting)
        return [lease for lease in leases if lease is not None and not is_suspect(lease)]

    def _hand_out_carefully(
        self, lease: Lease, info: TaskInfo | None, shared: list[Lease], asked_at: float
    ) -> None:
        lacked_s = None if info else asked_at - self._lacked_since(lease, asked_at)
        outcome = before_run(lease, lacked_s)
        alone = is_suspect(lease) or (info is not None and info.kind == "process")
        if outcome is None and not alone:
            shared.append(lease)
            return
        if outcome is None:
            if self._takes_in(lease):
                self.waiting.append(self._leases.hold([lease], WAITING, asked_at))
                return
            outcome = Release(_NO_ROOM_MS if is_suspect(lease) else 0)
        self._settler.add(lease, outcome)

    def _takes_in(self, lease: Lease) -> bool:
        """Whether a job that needs a runner of its own may wait for one here, its lease renewed.

        Of suspects there is room for what one death of this worker's runners can make: more come
        after whole workers died, and those are not to be hoarded by one.
        """
        processes = len(self.waiting_processes())
        if is_suspect(lease):
            return len(self.waiting) - processes < self._crew.slots
        return processes < self._crew.solos

    def _lacked_since(self, lease: Lease, now: float) -> float:
        """Return since when this worker lacks the task of a job, and tell of each task once."""
        name = lease.message.task
        if name not in self._lacked and len(self._lacked) < _MOST_LACKED:
            self._lacked[name] = now
            self._observe(TaskUnknown(name, lease.message.queue))
        return self._lacked.get(name, now)

    def _give(self, member: Member, leases: list[Lease], asked_at: float) -> None:
        for frame, some in self._by_link(leases):
            first = self._leases.hold(some, member.number, asked_at)
            member.give(frame(first, some), asked_at)

    def _by_link(self, leases: list[Lease]) -> list[tuple[type[Start | Await], list[Lease]]]:
        """Sort out which jobs go to a runner's event loop directly."""
        names = {lease.message.task for lease in leases}
        awaited = {name for name in names if self._tasks[name].kind == "async"}
        if not awaited or awaited == names:  # mostly so
            return [(Await if awaited else Start, leases)]
        return [
            (Await, [lease for lease in leases if lease.message.task in awaited]),
            (Start, [lease for lease in leases if lease.message.task not in awaited]),
        ]

    def _guilt(self, serial: int) -> tuple[int, bool]:
        """Rank a suspect: a guilty one that goes first makes the innocent wait for a new runner."""
        lease = self._leases.get(serial)
        if lease is None:
            return 0, False
        return lease.crashes, lease.message.id == self.prime_suspect
