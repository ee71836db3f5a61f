"""A worker inside the user's own process: for tests, debugging, and a web application's lifespan.

Owns: putting pump, in-process runner and broker together for an app that is imported here.
Must never: be mistaken for `dibs worker`: user code shares this process with the pump, so a task
that blocks the interpreter for a visibility timeout loses its lease here.
Called by: `App.worker`.
"""

from collections.abc import Mapping
from contextlib import closing

from msgspec import structs

from dibs.brokers.url import open_broker
from dibs.clock import SystemClock, system_randomness
from dibs.events import Event, Observer, Settled
from dibs.runners.inprocess import in_process_spawner
from dibs.task import AnyTask
from dibs.worker.log import log_event
from dibs.worker.service import EXIT_DONE, Plan, Service, StoppedEarly
from dibs.worker.signals import stop_signals


class EmbeddedWorker:
    """Runs an app's jobs in threads of this process; made by `App.worker`.

    One `run` or `drain` at a time; `stop` may be called from any thread or signal handler.
    """

    def __init__(
        self, url: str, tasks: Mapping[str, AnyTask], plan: Plan, observe: Observer | None
    ) -> None:
        self._url = url
        self._tasks = tasks
        self._plan = plan
        self._observe = observe or log_event
        self._service: Service | None = None
        self._stop_asked = False
        self._totals = Settled()

    def run(self) -> int:
        """Work until `stop`; return 0, or 1 if running jobs had to be released.

        Called in the main thread it also stops on SIGTERM, SIGINT and SIGHUP.
        """
        return self._run(self._plan)

    def drain(self) -> Settled:
        """Work until nothing is ready or held here; return what became of the jobs.

        Scheduled jobs, retries that wait out their backoff among them, are not awaited.
        """
        self._totals = Settled()
        self._run(structs.replace(self._plan, processes=1, drain=True))
        return self._totals

    def stop(self) -> None:
        """Ask `run` to return: running jobs get the shutdown timeout; a second time: none.

        While nothing runs, it is kept for the next `run`, whose thread may not have come so far.
        """
        self._stop_asked = True
        service = self._service
        if service is not None:
            service.stop()

    def _run(self, plan: Plan) -> int:
        spawn = in_process_spawner(self._url, self._tasks)
        self._service = service = Service(spawn, plan, self._hear)
        try:
            return self._serve(service)
        except StoppedEarly:
            return EXIT_DONE
        finally:
            self._service = None
            self._stop_asked = False
            service.close()

    def _serve(self, service: Service) -> int:
        opened = open_broker(self._url, worker_id=system_randomness(8), clock=SystemClock())
        with closing(opened) as broker:
            if self._stop_asked:
                service.stop()
            service.start()
            hello = service.wait_for_app()
            with stop_signals(lambda _: service.stop(), service.wake_descriptor):
                return service.run(broker, hello)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Settled):
            names = Settled.__struct_fields__
            both = ((getattr(self._totals, name), getattr(event, name)) for name in names)
            self._totals = Settled(*map(sum, both))
        self._observe(event)
