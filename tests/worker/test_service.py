"""A worker's stop, with a runner that a test plays by hand."""

from typing import Any

import pytest

from dibs.brokers.memory import MemoryBroker, open_memory
from dibs.clock import SystemClock
from dibs.errors import BrokerBusy
from dibs.events import Event, Settled
from dibs.runners.contract import Await, Down
from dibs.testing.clock import ManualClock
from dibs.testing.making import claim_one, message, publish
from dibs.worker.service import EXIT_DONE, EXIT_RELEASED_LATE, Plan, Service
from tests.worker.scripted import PLAIN, ScriptedRunner


class Stopping(ScriptedRunner):
    """Has its worker stop as soon as it has a job, and never does that."""

    service: Service
    stops = 1
    """How often it does so."""

    def send(self, frame: Down) -> None:
        super().send(frame)
        if isinstance(frame, Await):
            for _ in range(self.stops):
                self.service.stop()


class Hasty(Stopping):
    """Has done it the moment before it is killed."""

    def kill(self) -> None:
        if self.how is None:
            self.finish(*self.queued)
        super().kill()


def stopped(runner: Stopping, broker: MemoryBroker) -> tuple[int, list[Settled]]:
    """Have a worker take a job and stop; return its exit code, and what it settled."""
    events: list[Event] = []
    runner.hello(PLAIN)
    plan = Plan(concurrency=1, shutdown_timeout=0.0)
    service = runner.service = Service(lambda _: runner, plan, events.append)
    broker.declare(["photos"])
    publish(broker, message())
    service.start()
    try:
        code = service.run(broker, service.wait_for_app())
    finally:
        service.close()
    return code, [event for event in events if isinstance(event, Settled)]


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> MemoryBroker:
    return open_memory(request.node.name, clock=SystemClock(), worker_id=b"w")


def test_a_job_that_was_done_before_its_runner_was_killed_is_not_run_again(
    broker: MemoryBroker,
) -> None:
    code, settled = stopped(Hasty(ManualClock(), 100, slots=1), broker)
    assert code == EXIT_DONE
    assert [(event.done, event.released) for event in settled] == [(1, 0)]


@pytest.mark.parametrize("stops", [1, 2])
@pytest.mark.parametrize("verb", ["settle", "claim"])
def test_what_a_busy_broker_does_not_take_back_at_the_end_is_offered_again(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, verb: str, stops: int
) -> None:
    """Else a job that a restart has cut short loses an attempt when its lease runs out."""
    call, busy = getattr(broker, verb), [BrokerBusy("held"), BrokerBusy("held")]

    def calling(*arguments: Any) -> Any:
        takes_back = verb == "settle" or arguments[-1] == 0
        if takes_back and busy:
            raise busy.pop()
        return call(*arguments)

    monkeypatch.setattr(broker, verb, calling)
    runner = Stopping(ManualClock(), 100, slots=1)
    runner.stops = stops
    code, settled = stopped(runner, broker)
    assert (code, busy) == (EXIT_RELEASED_LATE, [])
    assert [(event.done, event.released) for event in settled] == [(0, 1)]
    lease = claim_one(broker)
    assert (lease.fence, lease.lost) == (2, 0)
