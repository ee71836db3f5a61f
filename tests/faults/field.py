"""One run: a server, a proxy in front of it, workers, and jobs that keep coming, all written down.

Owns: the processes and the proxy of a run, and their end; what is waited for; the history.
Must never: end a process that it did not start, or wait without a limit.
Called by: the scenarios, which do their harm to it, and `run.py`.
"""

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.testing.proxy import Proxy
from tests.chaos.effects import EFFECTS
from tests.chaos.history import ENDS, NO_JOB, Event
from tests.chaos.recorder import Reader
from tests.faults.grounds import Ground
from tests.faults.load import MOST_AT_ONCE, Load, Pace
from tests.servers import Server
from tests.worker.workers import LAUNCH, Started, until

SLOTS = 16
WORKERS = 2

HEAL_LIMIT_SECONDS = 40.0
"""How long is waited for a worker to take jobs again; ten seconds are allowed."""

STUCK_SECONDS = 5.0
STUCK_LEASES = 5.0
"""After so long without any job granted or ended, in seconds and leases, what is left is lost."""


class Field:
    """What there is in one run; chance is of the seed."""

    def __init__(self, ground: Ground, server: Server, folder: Path, fault: str = "-") -> None:
        chaos = Path(__file__).parents[1] / "chaos"
        shutil.copy(chaos / "load.py", folder)
        shutil.copy(chaos / "effects.py", folder)
        self.ground = ground
        self.server = server
        self.folder = folder
        self.seed = int(os.environ.get("DIBS_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
        self.chance = random.Random(self.seed)
        self.effect = EFFECTS["appended"](folder)
        self.workers: list[Started] = []
        self.stops: list[tuple[str, float, float]] = []
        """Which process was stopped, from when to when."""
        self._proxy = Proxy("127.0.0.1", server.port, seed=self.seed) if ground.network else None
        self._url = server.url(self._proxy.port) if self._proxy else server.url()
        self._queue = f"faults-{os.urandom(4).hex()}"
        self._fault = fault
        self._started: list[Started] = []
        self.exits: list[int] = []
        self._kills: list[Event] = []
        self._reader = Reader(folder / "history.jsonl")
        self._over = threading.Event()
        self._begun = time.monotonic()
        self._harmed = False
        self.load: Load | None = None

    def declare(self) -> None:
        """Make the queue before anybody works on it, and see what its broker can do."""
        broker = open_broker(self.server.url(), worker_id=os.urandom(16), clock=SystemClock())
        broker.declare([self._queue])
        self.capabilities = broker.capabilities
        broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.load is not None:
            self.load.abandon()
        for one in self._started:
            one.clear_away()
        if self._proxy is not None:
            self._proxy.close()

    @property
    def network(self) -> Proxy:
        """The proxy that all go through."""
        assert self._proxy is not None, "there is no network"
        return self._proxy

    # Workers

    def start_worker(self) -> None:
        """Start one more worker, and do not wait for it."""
        options = ["-c", str(SLOTS), "--processes", "1", "-q", self._queue, "--url", self._url]
        record = str(self.folder / "history.jsonl")
        command = [sys.executable, LAUNCH, self._fault, record, "worker", "load:app", *options]
        worker = Started(self.folder, command, {"DIBS_CHAOS_EFFECT": "appended"})
        self._started.append(worker)
        self.workers.append(worker)

    def await_workers(self) -> None:
        """Wait until every worker has asked for jobs: from then on it must outlive any fault."""
        pids = {str(worker.pid) for worker in self.workers}

        def asked() -> bool:
            self._reader.more()
            for worker in self.workers:
                assert worker.process.poll() is None, worker.text
            return pids <= {event.proc for event in self._reader.events}

        until(asked, "every worker asks for jobs")

    def kill(self, worker: Started) -> None:
        """SIGKILL a whole worker, and write it down."""
        at = worker.kill()
        self.workers.remove(worker)
        self._kills.append(Event("kill", "ok", at, str(worker.pid)))

    def busiest(self, for_seconds: float = 0.0) -> Started:
        """Return the worker that holds most jobs, for some time now; wait until one holds any."""

        def held() -> Counter[str]:
            self._reader.more()
            holds: dict[int, Event] = {}
            for event in self._reader.events:
                if event.op == "claim" and event.type == "ok":
                    holds[event.job] = event
                elif event.op in ENDS and _is_of(event, holds.get(event.job)):
                    del holds[event.job]
            holds.pop(NO_JOB, None)
            pids = {str(worker.pid) for worker in self.workers}
            since = time.monotonic() - for_seconds
            return Counter(one.proc for one in holds.values() if one.proc in pids and one.t < since)

        [(pid, _)] = until(held, "a worker holds a job").most_common(1)
        return next(worker for worker in self.workers if str(worker.pid) == pid)

    def stop(self, worker: Started, seconds: float, *, whole: bool) -> None:
        """Stop a worker for a time, which does not know it: all of it, or its pump alone.

        Never within a commit to a file: that holds up everybody, and is another fault.
        """
        tell = worker.send_all if whole else worker.send

        def stopped_outside() -> bool:
            tell(signal.SIGSTOP)
            until(lambda: stopped(worker.pid), "the worker stands still")
            if holds_file(worker.pid):
                tell(signal.SIGCONT)
                return False
            return True

        until(stopped_outside, "the worker stands still outside of a commit")
        since = time.monotonic()
        self.pause(seconds)
        tell(signal.SIGCONT)
        self.stops.append((str(worker.pid), since, time.monotonic()))

    # Time

    def begin(self, jobs: int, seconds: float) -> None:
        """Let jobs come from now on."""
        pace = Pace(jobs, jobs / seconds, WORKERS * SLOTS, self.ground.lease_seconds)
        most = min(MOST_AT_ONCE, self.capabilities.batch_limit)
        self.load = Load(self._url, self._queue, pace, most, self.seed)
        self._begun = time.monotonic()

    def goes_on(self, after: float, seconds: float) -> bool:
        """Let some time pass; return whether harm is to be done now, at least once."""
        self.pause(after)
        first, self._harmed = not self._harmed, True
        return first or time.monotonic() < self._begun + seconds

    def pause(self, seconds: float) -> None:
        """Let work go on for a time."""
        self._over.wait(seconds)

    # What happened

    @property
    def events(self) -> list[Event]:
        """All that happened so far, in order of time."""
        self._reader.more()
        published = self.load.events if self.load else []
        return sorted([*self._reader.events, *self._kills, *published], key=lambda one: one.t)

    def heal_seconds(self) -> float:
        """Mend the network; return how long it takes until every worker was granted a job."""
        if self._proxy is not None:
            self._proxy.heal()
        assert self.load is not None
        healed_at = time.monotonic()
        granted: dict[str, float] = {}
        pids = {str(worker.pid) for worker in self.workers}

        def all_work() -> bool:
            for event in self._reader.more():
                if event.op == "claim" and event.job != NO_JOB and event.t > healed_at:
                    granted.setdefault(event.proc, event.t)
            return granted.keys() >= pids

        with self.load.surge():
            try:
                until(all_work, "every worker takes jobs again", HEAL_LIMIT_SECONDS)
            except AssertionError:
                return HEAL_LIMIT_SECONDS
        return max(granted[pid] for pid in pids) - healed_at

    def finish(self) -> None:
        """Let no more jobs come, wait until all are done, and end the workers in order.

        When none is left, nothing may be granted for one lease more: what came back would show.
        """
        assert self.load is not None
        self.load.finish()
        longest_seconds = max(STUCK_LEASES * self.ground.lease_seconds, self.ground.hidden_seconds)
        stuck_seconds = STUCK_SECONDS + longest_seconds
        moved_at = granted_at = time.monotonic()
        ended: set[int] = set()
        seen = 0
        while True:
            self._over.wait(0.05)
            self._reader.more()
            for event in self._reader.events[seen:]:
                if event.job == NO_JOB:
                    continue
                moved_at = time.monotonic()
                if event.op == "claim":
                    granted_at = moved_at
                elif event.op in ("ack", "dead"):
                    ended.add(event.job)
            seen = len(self._reader.events)
            quiet = time.monotonic() - granted_at > self.ground.lease_seconds + 1.0
            if quiet and self.load.confirmed <= ended:
                break
            if time.monotonic() - moved_at > stuck_seconds:
                break
        self.exits = [worker.stop() for worker in self.workers]

    def texts(self) -> str:
        """Return all that the workers have printed."""
        return "\n".join(f"--- {one.pid}\n{one.text}" for one in self._started)


def stopped(pid: int) -> bool:
    """Whether a process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def holds_file(pid: int) -> bool:
    """Whether a process holds a lock with which it writes to a file."""
    locks = map(str.split, Path("/proc/locks").read_text().splitlines())
    return any(lock[1] != "->" and lock[3:5] == ["WRITE", str(pid)] for lock in locks)


def _is_of(end: Event, hold: Event | None) -> bool:
    """Whether an end is that of a hold, and not of one that was lost before it."""
    return hold is not None and (hold.proc, hold.fence) == (end.proc, end.fence)
