"""The service: a worker's start, its waiting, its drain and its stop.

Owns: the one place where the worker waits (bell, runners, wake pipe, until the next deadline), and
the exit code.
Must never: touch a lease; that is the pump's.
Called by: `dibs worker` and `App.worker`.
"""

import gc
import math
import os
import select
from collections.abc import Callable, Sequence

from msgspec import Struct

from dibs.brokers import checks
from dibs.brokers.contract import Broker
from dibs.clock import SystemClock, system_randomness
from dibs.errors import (
    AppImportFailed,
    BrokerBusy,
    BrokerUnavailable,
    OptionError,
    WorkerError,
)
from dibs.events import Observer, Stopping
from dibs.message import Message, TaskInfo
from dibs.policy import uniform_of
from dibs.runners.contract import Hello, ImportFailed, Spawner
from dibs.wakepipe import WakePipe
from dibs.worker.crew import Crew
from dibs.worker.patience import Patience
from dibs.worker.pump import Pump
from dibs.worker.seams import Seams

EXIT_DONE = 0
EXIT_RELEASED_LATE = 1

_QUIT_SECONDS = 1.0
"""How long runners may take to exit: less than a second signal waits for the worker's end."""
_RELEASE_SECONDS = 0.4
"""How long a broker that fails is asked again to take back what is left; a call may outlast it."""
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.5


class Plan(Struct, frozen=True):
    """How a worker is to run.

    `concurrency` is the slots in all, over `processes` runner processes. `queues` are those served,
    all of the app's tasks where None. `drain`: stop when nothing is ready. `shutdown_timeout` is
    the seconds that running jobs get after a stop is asked for.
    """

    concurrency: int = 50
    processes: int | None = None
    queues: tuple[str, ...] | None = None
    drain: bool = False
    shutdown_timeout: float = 30.0

    def shares(self) -> list[int]:
        """Return the slots of each runner process."""
        wanted = self.processes or usable_cores()
        processes = max(1, min(wanted, self.concurrency))
        each, more = divmod(self.concurrency, processes)
        return [each + (number < more) for number in range(processes)]


class StoppedEarly(Exception):
    """A stop was asked for before there was anything to stop."""


class Service:
    """One worker: `start` it, `wait_for_app`, `run` it in that thread; `stop` it from anywhere."""

    def __init__(self, spawn: Spawner, plan: Plan, observe: Observer) -> None:
        self._plan = plan
        self._clock = SystemClock()
        self._seams = Seams(self._clock, uniform_of(system_randomness), observe)
        shares = plan.shares()
        self._crew = Crew(spawn, shares, min(max(2, len(shares)), plan.concurrency), observe)
        self._wake = WakePipe()
        self._stops = 0

    def start(self) -> None:
        """Start the runners; they import the app while the caller does other things."""
        self._crew.start(self._clock.monotonic())

    def wait_for_app(self, path: str | None = None) -> Hello:
        """Return what the first runner says of the app; `path` is what the runners import.

        Raises:
            AppImportFailed: the app cannot be imported; the text is the runner's.
            WorkerError: a runner died, or said nothing for a minute.
            StoppedEarly: a stop was asked for.
        """
        deadline = self._clock.monotonic() + _START_SECONDS
        while not self._stops:
            dead = self._crew.deaths()
            for _, frame in self._crew.receive():
                if isinstance(frame, Hello):
                    return frame
                if isinstance(frame, ImportFailed):
                    raise AppImportFailed(frame.text)
            if dead:
                raise _died_at_start(dead[0][1], path)
            if self._clock.monotonic() > deadline:
                raise WorkerError(f"no runner process was ready within {_START_SECONDS:g} s")
            self._wait(self._runner_descriptors(), deadline)
        raise StoppedEarly

    def wait_for(self, changed: Callable[[], bool]) -> None:
        """Ask `changed` twice a second until it says yes, or a stop is asked for."""
        while not (self._stops or changed()):
            self._wait([], self._at_most(None, changed))

    def run(self, broker: Broker, hello: Hello, changed: Callable[[], bool] | None = None) -> int:
        """Work until a stop is asked for, or until drained; return the exit code.

        `changed` is asked twice a second; when it says yes, the worker stops in order.
        """
        tasks: dict[str, TaskInfo] = {info.name: info for info in hello.tasks}
        queues = queues_of(self._plan, hello)
        served = [info for info in hello.tasks if info.queue in queues]
        _check_capabilities(served, broker)
        if served:
            broker.expect(served)
        is_ready = self._prepare(broker, queues, changed)
        pump = Pump(
            broker=broker,
            queues=queues,
            crew=self._crew,
            tasks=tasks,
            seams=self._seams,
            grace_seconds=self._plan.shutdown_timeout,
        )
        if is_ready:
            self._work(pump, broker, changed)
        return self._finish(pump, broker)

    def stop(self) -> None:
        """Ask for a stop, from any thread or signal handler; a second time: now."""
        self._stops += 1
        self._wake.ring()

    @property
    def wake_descriptor(self) -> int:
        """Where a byte ends the wait, so that a stop is looked for; for a signal's own handler."""
        return self._wake.writer

    def kill(self) -> None:
        """End the runners at once, from any thread."""
        self._crew.kill()

    def close(self) -> None:
        """End what is left of the runners, and give up the descriptors."""
        self.kill()
        # A command that starts anew in place of itself would keep them as zombies for ever.
        self._wait_for_deaths(lambda: None)
        for member in list(self._crew.members.values()):
            member.runner.close()
        self._wake.close()

    def _prepare(
        self, broker: Broker, queues: Sequence[str], changed: Callable[[], bool] | None
    ) -> bool:
        """Make the queues, and hang up the bell; say whether that is done, or the worker is to end.

        A broker that is away is waited for, as the pump does later.

        Raises:
            BrokerError: it is not away, and waiting would not help.
        """
        patience = Patience(self._clock, self._seams.observe)
        while not self._stops and not (changed is not None and changed()):
            try:
                broker.declare(queues)
                broker.bell()  # before the first claim: one that finds nothing asks to be rung
            except (BrokerUnavailable, BrokerBusy) as trouble:
                patience.failed(trouble)
                self._wait([], self._at_most(patience.retry_at, changed))
            else:
                patience.worked(self._clock.monotonic())
                return True
        return False

    def _work(self, pump: Pump, broker: Broker, changed: Callable[[], bool] | None) -> None:
        rung, alone = True, False
        while not self._stops:
            until = pump.tick(rung, alone)
            if self._plan.drain and pump.drained:
                return
            if changed is not None and changed():
                return
            rung, alone = self._wait_for_work(pump, broker, self._at_most(until, changed))

    def _at_most(self, until: float | None, changed: Callable[[], bool] | None) -> float | None:
        """Return until when to wait, where `changed` is to be asked, too."""
        if changed is None:
            return until
        return min(math.inf if until is None else until, self._clock.monotonic() + _LOOK_SECONDS)

    def _finish(self, pump: Pump, broker: Broker) -> int:
        """Let running jobs finish within the shutdown timeout, release the others."""
        asked_at = self._clock.monotonic()
        pump.stop()
        if pump.held:
            self._seams.observe(Stopping(pump.held, self._plan.shutdown_timeout))
        deadline = self._clock.monotonic() + self._plan.shutdown_timeout
        self._go_on(pump, broker, deadline, lambda: not pump.held or self._stops > 1)
        late = 0
        if pump.held:
            # Killed first: a job must not be released while it still runs, nor one that is done.
            pump.hear_last()
            self._crew.kill()
            self._wait_for_deaths(pump.hear_last)
            late = pump.abandon()
            asked_at = self._clock.monotonic()
        self._crew.quit()
        self._wait_for_deaths(pump.hear_last)
        self._go_on(pump, broker, asked_at + _RELEASE_SECONDS, lambda: pump.over)
        return EXIT_RELEASED_LATE if late or pump.held else EXIT_DONE

    def _go_on(
        self, pump: Pump, broker: Broker, deadline: float, is_over: Callable[[], bool]
    ) -> None:
        """Work until `is_over`, or the time is."""
        while not is_over() and self._clock.monotonic() < deadline:
            until = pump.tick(rung=False)
            if not is_over():
                wait = deadline if until is None else min(until, deadline)
                self._wait_for_work(pump, broker, wait)

    def _wait_for_deaths(self, hear: Callable[[], None]) -> None:
        deadline = self._clock.monotonic() + _QUIT_SECONDS
        while self._clock.monotonic() < deadline:
            dead = {member.number for member, _ in self._crew.deaths()}
            hear()
            alive = [m for m in self._crew.members.values() if m.number not in dead]
            if not alive:
                return
            self._wait([(fd, select.POLLIN) for m in alive for fd in m.runner.filenos()], deadline)

    # Waiting

    def _wait_for_work(self, pump: Pump, broker: Broker, until: float | None) -> tuple[bool, bool]:
        """Wait for whatever comes first; say whether the bell rang, and whether it was that alone.

        Time alone is no ring: where a death cannot be watched for, it is looked for once a second.
        """
        runners = self._runner_descriptors()
        bell = broker.bell()
        bells = [(bell, select.POLLIN)] if pump.listens() else []
        ready = self._wait([*runners, *bells], until)
        rung = bell in ready
        return rung, rung and not any(descriptor in ready for descriptor, _ in runners)

    def _runner_descriptors(self) -> list[tuple[int, int]]:
        watched: list[tuple[int, int]] = []
        for member in self._crew.members.values():
            runner = member.runner
            runner.flush()
            unsent = runner.unsent()
            watched += [
                (descriptor, select.POLLIN | select.POLLOUT * (descriptor in unsent))
                for descriptor in {*runner.filenos(), *unsent}
            ]
        return watched

    def _wait(self, watched: Sequence[tuple[int, int]], until: float | None) -> set[int]:
        """Wait until a descriptor is ready or the time has come: the worker's one wait."""
        poll = select.poll()
        for descriptor, events in watched:
            poll.register(descriptor, events)
        poll.register(self._wake, select.POLLIN)
        wait = None if until is None else max(0.0, until - self._clock.monotonic()) * 1_000
        ready = {descriptor for descriptor, _ in poll.poll(wait)}
        if self._wake.fileno() in ready:
            self._wake.drain()
        return ready


def calm_collector() -> None:
    """Collect garbage a tenth as often: for a process that does nothing but pump.

    A claim is rows by the thousand, and none is in a cycle: to look for one after each 700 objects
    took a tenth of the pump's time.
    """
    gc.set_threshold(50_000, 50, 100)


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than there are, in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _died_at_start(how: str, path: str | None) -> WorkerError:
    if path is None:
        return WorkerError(f"a runner process died while it started: {how}")
    module = path.partition(":")[0]
    return WorkerError(
        f"a runner process died while it imported {path}: {how}; see whether"
        f" `python -c 'import {module}'` dies of it too"
    )


def _check_capabilities(tasks: Sequence[TaskInfo], broker: Broker) -> None:
    """Refuse a broker that cannot keep what a task is defined with.

    Raises:
        OptionError: it cannot; the text names the task.
    """
    has = broker.capabilities
    for info in tasks:
        if info.keep_key_ms and not (has.results and has.unique_keys):
            raise OptionError(
                f"`{info.name}` ({info.where}) has an `idempotency_key`, and {broker.url} cannot"
                " keep the record of one: leave it out, and make the task idempotent itself"
                " (docs/idempotency.md), or use a broker that keeps results"
            )
        usual = Message(
            bytes(16),
            info.queue,
            info.name,
            b"{}",
            priority=info.priority,
            visibility_timeout_ms=info.visibility_timeout_ms,
            timeout_ms=info.timeout_ms,
        )
        if why := checks.refusal(usual, has):
            raise OptionError(
                f"`{info.name}` ({info.where}) cannot be a task of {broker.url}: {why}"
            )


def queues_of(plan: Plan, hello: Hello) -> list[str]:
    """Return the queues to serve: those asked for, or those of the app's tasks."""
    named = plan.queues or tuple(info.queue for info in hello.tasks) or ("default",)
    return list(dict.fromkeys(named))
