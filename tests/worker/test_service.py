"""A worker's stop, with a runner that a test plays by hand."""

from dibs.brokers.memory import open_memory
from dibs.clock import SystemClock
from dibs.events import Event, Settled
from dibs.runners.contract import Await, Down
from dibs.testing.clock import ManualClock
from dibs.testing.making import message, publish
from dibs.worker.service import EXIT_DONE, Plan, Service
from tests.worker.scripted import PLAIN, ScriptedRunner


class Hasty(ScriptedRunner):
    """Has its worker stop as soon as it has a job, which is done the moment before it is killed."""

    service: Service

    def send(self, frame: Down) -> None:
        super().send(frame)
        if isinstance(frame, Await):
            self.service.stop()

    def kill(self) -> None:
        if self.how is None:
            self.finish(*self.queued)
        super().kill()


def test_a_job_that_was_done_before_its_runner_was_killed_is_not_run_again() -> None:
    events: list[Event] = []
    runner = Hasty(ManualClock(), 100, slots=1)
    runner.hello(PLAIN)
    plan = Plan(concurrency=1, shutdown_timeout=0.0)
    service = runner.service = Service(lambda _: runner, plan, events.append)
    broker = open_memory("hasty", clock=SystemClock(), worker_id=b"w")
    broker.declare(["photos"])
    publish(broker, message())
    service.start()
    try:
        assert service.run(broker, service.wait_for_app()) == EXIT_DONE
    finally:
        service.close()
    settled = [event for event in events if isinstance(event, Settled)]
    assert [(event.done, event.released) for event in settled] == [(1, 0)]
