"""The middle of the demo: three workers at work, and what is done to each of them.

Owns: when a worker is killed, when another is stopped and goes on, and that it is done where it
hurts: in the middle of jobs, and between what they did and their acks.
Must never: let a fault hit by luck only, or stop a worker that holds what others need.
Called by: `story.py`.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from dibs.brokers.contract import Broker
from dibs.brokers.url import open_broker
from dibs.cli.demo.processes import Processes
from dibs.cli.demo.record import Record
from dibs.cli.demo.show import Show
from dibs.cli.demo.tasks import VISIBILITY_TIMEOUT, charge_naively
from dibs.clock import SystemClock
from dibs.errors import BrokerBusy, WorkerError
from dibs.local.lock import WriteLock
from dibs.text import counted, duration

LOOK_SECONDS = 0.1
AIM_SECONDS = 0.005
KILL_AT, STOP_AT = 0.25, 0.45
"""The share of the jobs that are done when a worker is killed, and when another is stopped."""

LOSES = 25
"""Of how many acks, of each task, the worker with the bad line loses one."""

MOST_TRIES = 50
"""How often a worker is caught between two jobs before that is an error."""

IN_TURN_SECONDS = 0.5
"""How long the queue's lock is waited for, to know that a stopped worker does not hold it."""

QUIET_SECONDS = 0.3
"""Nothing begun and nothing ended for so long: the runners of a stopped worker have no more."""

STALL_SECONDS = 60.0
"""Nothing done for so long: something is wrong, and the audit will say what is missing."""


class Faults(Struct, frozen=True):
    """What was done to the workers, by their process ids."""

    killed: int
    stopped: int


class Work:
    """The workers, while `published` jobs are done."""

    def __init__(self, folder: Path, slots: int, show: Show, processes: Processes) -> None:
        self._slots = slots
        self._show = show
        self._processes = processes
        self._record = Record(folder)
        self._lock = folder / "queue.db"
        self._published = 0

    def do(self, published: int) -> Faults:
        """Let three workers do the jobs, one with a bad line, one to be killed, one stopped."""
        self._published = published
        broker = open_broker(os.environ["DIBS_URL"], worker_id=os.urandom(16), clock=SystemClock())
        with contextlib.closing(broker):
            share = self._slots // 3
            bad = self._worker(self._slots - 2 * share, loses=LOSES)
            victim, sleeper = self._worker(share), self._worker(share)
            self._show.say(
                f"workers {bad.pid} {victim.pid} {sleeper.pid} started, {self._slots} slots in all;"
                f" of every {LOSES} acks of {bad.pid} one is lost on the way"
            )
            self._show.step("done", published)
            self._until(lambda left: left <= published * (1 - KILL_AT), broker)
            self._kill(victim)
            heir = self._worker(share)
            self._show.say(f"worker {heir.pid} takes its place")
            self._until(lambda left: left <= published * (1 - STOP_AT), broker)
            self._stop_for_long(sleeper, broker)
            self._until(lambda left: left == 0, broker)
        for worker in (bad, sleeper, heir):
            if self._processes.stop(worker) != 0:
                raise WorkerError(f"a worker failed:\n{self._processes.printed(worker)}")
        return Faults(victim.pid, sleeper.pid)

    def _worker(self, slots: int, loses: int = 0) -> subprocess.Popen[bytes]:
        processes = max(1, (os.cpu_count() or 1) // 3)
        numbers = (slots, processes, loses)
        return self._processes.start(["dibs.cli.demo.worker", *map(str, numbers)])

    def _until(self, reached: Callable[[int], bool], broker: Broker) -> None:
        """Wait until as many jobs are left as `reached` says, or nothing moves any more."""
        inspector = broker.inspector()
        fewest, since = self._published + 1, time.monotonic()
        while True:
            counts = inspector.queues()
            left = sum((q.ready or 0) + (q.scheduled or 0) + (q.in_flight or 0) for q in counts)
            self._show.done(self._published - left)
            if reached(left):
                return
            now = time.monotonic()
            if left < fewest:
                fewest, since = left, now
            elif now > since + STALL_SECONDS:
                self._show.say(f"nothing was done for {duration(STALL_SECONDS)}: giving up")
                return
            time.sleep(LOOK_SECONDS)

    # One dies in the middle of its jobs

    def _kill(self, victim: subprocess.Popen[bytes]) -> None:
        for _ in range(MOST_TRIES):
            # Paused, it cannot finish them before it is killed.
            self._processes.pause(victim)
            if caught := len(self._record.read().unfinished_by[victim.pid]):
                self._processes.kill(victim)
                self._show.say(
                    f"killed worker {victim.pid} and its runners with SIGKILL, in the middle of"
                    f" {counted(caught, 'job')}: given to others when their leases run out, after"
                    f" {VISIBILITY_TIMEOUT} s at most"
                )
                return
            self._processes.go_on(victim)
            time.sleep(LOOK_SECONDS)
        raise WorkerError(f"a worker runs nothing:\n{self._processes.printed(victim)}")

    # One is stopped between what its jobs did and their acks

    def _stop_for_long(self, sleeper: subprocess.Popen[bytes], broker: Broker) -> None:
        """Stop a worker until its jobs are others', then let it go on and send its acks."""
        held = self._caught_with_acks(sleeper)
        self._processes.pause(sleeper)
        self._show.say(
            f"stopped worker {sleeper.pid} and its runners with SIGSTOP, outside of a commit, with"
            f" {counted(len(held), 'job')} done and not acknowledged"
        )
        self._until(lambda _: self._begun_since(sleeper, held), broker)
        self._processes.go_on(sleeper)
        self._show.say(
            f"worker {sleeper.pid} goes on; what it held is in other hands by now, so its acks come"
            " too late"
        )

    def _begun_since(self, sleeper: subprocess.Popen[bytes], held: dict[str, int]) -> bool:
        """Whether other workers have begun each job once more than when the sleeper was stopped."""
        record = self._record.read()
        return all(record.begun_elsewhere(sleeper.pid, job) > held[job] for job in held)

    def _caught_with_acks(self, sleeper: subprocess.Popen[bytes]) -> dict[str, int]:
        """Stop what sends a worker's acks while cards are charged there; return the jobs it holds.

        Its runners go on until they have nothing more to do: they would keep others from the shop.
        With each job goes how often others had begun it when the worker stopped: on a busy machine
        its leases may run out before its runners are done.
        """
        for _ in range(MOST_TRIES):
            self._until_it_charges(sleeper)
            self._processes.pause_alone(sleeper)
            record = self._record.read()
            unfinished = record.unfinished_by[sleeper.pid]
            over = record.begun_by[sleeper.pid].keys() - unfinished.keys()
            elsewhere = record.begun - record.begun_by[sleeper.pid]
            if charge_naively.name in unfinished.values() and self._holds_up_nobody():
                self._until_quiet(sleeper)
                held = record.begun_by[sleeper.pid].keys() - over
                return {job: elsewhere[job] for job in held}
            self._processes.go_on(sleeper)
        raise WorkerError(f"a worker charges nothing:\n{self._processes.printed(sleeper)}")

    def _until_it_charges(self, sleeper: subprocess.Popen[bytes]) -> None:
        over_at = time.monotonic() + STALL_SECONDS
        while charge_naively.name not in self._record.read().unfinished_by[sleeper.pid].values():
            if time.monotonic() > over_at:
                raise WorkerError(f"a worker charges nothing:\n{self._processes.printed(sleeper)}")
            time.sleep(AIM_SECONDS)

    def _holds_up_nobody(self) -> bool:
        """Whether the queue's lock can be had while a worker is stopped."""
        with contextlib.closing(WriteLock(self._lock)) as lock:
            try:
                lock.acquire(IN_TURN_SECONDS)
            except BrokerBusy:
                return False
            lock.release()
        return True

    def _until_quiet(self, sleeper: subprocess.Popen[bytes]) -> None:
        """Wait until the runners of a stopped worker have done all that they were given."""
        seen, since = -1, time.monotonic()
        over_at = since + STALL_SECONDS
        while time.monotonic() < since + QUIET_SECONDS:
            record = self._record.read()
            begun = record.begun_by[sleeper.pid].total()
            if record.unfinished_by[sleeper.pid] or begun != seen:
                seen, since = begun, time.monotonic()
            if since > over_at:
                raise WorkerError(f"a job does not end:\n{self._processes.printed(sleeper)}")
            time.sleep(LOOK_SECONDS)
