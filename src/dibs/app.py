"""The application: a broker's address and the tasks that go through it.

Owns: the registry of tasks by name.
Must never: open the broker before a job is enqueued: an app is made at import, in every process.
Called by: user code; the worker and the command line, which find tasks in it.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from dibs.brokers.url import redact
from dibs.clock import Clock, Randomness, SystemClock, system_randomness
from dibs.delivery import BoundCall, P, batches
from dibs.errors import OptionError, TaskDefinitionError, TaskNotFound
from dibs.idempotency import KEPT_SECONDS
from dibs.job import R_co
from dibs.message import Backoff
from dibs.options import Options, Seconds, milliseconds, revised
from dibs.producer.producer import Producer
from dibs.spelling import did_you_mean
from dibs.task import AnyTask, AsyncTask, Definition, ExceptionTypes, FunctionTask, define

if TYPE_CHECKING:
    from dibs.events import Observer
    from dibs.worker.embedded import EmbeddedWorker


class Decorator(Protocol):
    """Turns a function into a task, keeping its parameters and its result for type checkers."""

    # A function that returns a coroutine fits the second form too. The first that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R_co]], /
    ) -> AsyncTask[P, R_co]: ...

    @overload
    def __call__(self, function: Callable[P, R_co], /) -> FunctionTask[P, R_co]: ...


class App:
    """Tasks, and the broker that their jobs go through.

    Args:
        url: where the broker is; by default the environment's DIBS_URL, else `sqlite:///dibs.db`,
            a file in the working directory. Nothing is opened until a job is enqueued.
        clock: for tests, which control time.
        randomness: for tests, which repeat runs.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        clock: Clock | None = None,
        randomness: Randomness = system_randomness,
    ) -> None:
        self._producer = Producer(url, clock or SystemClock(), randomness)
        self._tasks: dict[str, AnyTask] = {}

    @property
    def url(self) -> str:
        """The broker's URL, resolved once: a relative path is absolute. It may hold secrets.

        Raises:
            UrlError: it cannot be read; the text shows the right form.
        """
        return self._producer.url

    @property
    def tasks(self) -> Mapping[str, AnyTask]:
        """The tasks by name, read only."""
        return MappingProxyType(self._tasks)

    def redirect(self, url: str) -> None:
        """Use another broker than the app was made with; what `--url` of the command line does."""
        self._producer.redirect(url)

    def find(self, name: str) -> AnyTask:
        """Return the task of that name.

        Raises:
            TaskNotFound: there is none; the text lists the nearest names.
        """
        try:
            return self._tasks[name]
        except KeyError:
            near = did_you_mean(name, self._tasks)
            raise TaskNotFound(f"there is no task `{name}`{near}") from None

    @overload
    def task(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R_co]], /
    ) -> AsyncTask[P, R_co]: ...

    @overload
    def task(self, function: Callable[P, R_co], /) -> FunctionTask[P, R_co]: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        visibility_timeout: Seconds = 30,
        timeout: Seconds = 900,
        max_attempts: int = 5,
        max_crashes: int = 3,
        max_lost: int = 10,
        heartbeat: bool = True,
        runs_in: Literal["process"] | None = None,
        keep_result: Seconds = 3600,
        backoff: Backoff | None = None,
        retry_on: ExceptionTypes | None = None,
        give_up_on: ExceptionTypes = (),
        idempotency_key: str | None = None,
        keep_key: Seconds = KEPT_SECONDS,
    ) -> Decorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        visibility_timeout: Seconds = 30,
        timeout: Seconds = 900,
        max_attempts: int = 5,
        max_crashes: int = 3,
        max_lost: int = 10,
        heartbeat: bool = True,
        runs_in: Literal["process"] | None = None,
        keep_result: Seconds = 3600,
        backoff: Backoff | None = None,
        retry_on: ExceptionTypes | None = None,
        give_up_on: ExceptionTypes = (),
        idempotency_key: str | None = None,
        keep_key: Seconds = KEPT_SECONDS,
    ) -> Any:
        """Register a function, `def` or `async def`, as a task: `@app.task` or `@app.task(...)`.

        Args:
            function: the function.
            name: by which workers find it; its own name by default, unique within the app.
            queue: 1 to 60 of A-Z a-z 0-9 _ -.
            priority: 0 to 9; within a queue the higher goes first.
            visibility_timeout: seconds, at least 1, for which a worker holds a job between
                heartbeats.
            timeout: seconds that one run may take.
            max_attempts: runs that may fail, the first included.
            max_crashes: runs that may kill their process.
            max_lost: times that a worker may vanish while it holds the job.
            heartbeat: whether a running job's lease is renewed.
            runs_in: "process" for a `def` that needs a killable process of its own.
            keep_result: seconds for which a result is kept; 0 keeps none. Nothing is kept of a
                function whose return annotation is None or missing.
            backoff: how long a job waits after a failure, as made by `dibs.backoff`; by default
                `exponential()`, random between 0.1 s and 2^n s after failure n, an hour at most.
            retry_on: an exception type, or a tuple of them: no other is tried again. By default
                every exception is.
            give_up_on: an exception type, or a tuple of them, that is not tried again. Of a type
                named here and a type named in `retry_on`, the nearer to the exception's own counts.
            idempotency_key: what a job does once, as text with the task's parameters in it, such as
                "charge-{order}". It is the job's unique key, and outlasts the job: another one of
                this task and key is not run, but acknowledged with the recorded result.
            keep_key: seconds, at least 1, for which it is recorded that what a key names is done.

        An `idempotency_key` is looked up in the broker before the function runs, and recorded in
        the step that acknowledges the job. So one window remains: when the function has had its
        effect and the acknowledgement does not reach the broker, because the worker died or lost
        its lease in between, the job runs again. Only a record in the same transaction as the
        effect closes it: `dibs.once`, in the function. Parameters in a key are text and numbers, or
        such inside of them, as in "{event.id}"; between two of them, put what neither has in it.

        Raises:
            TaskDefinitionError: the function cannot be a task, or its name is taken.
            OptionError: an option is out of its range.
        """
        given = {
            "queue": queue,
            "priority": priority,
            "visibility_timeout": visibility_timeout,
            "timeout": timeout,
            "max_attempts": max_attempts,
            "max_crashes": max_crashes,
            "max_lost": max_lost,
        }
        tries, keys = (backoff, retry_on, give_up_on), (idempotency_key, keep_key)
        own = Definition(name, heartbeat, runs_in, keep_result, *tries, *keys)

        def register(function: Callable[..., Any]) -> AnyTask:
            options = revised(Options(), given)
            return self._register(define(function, own, options, self._producer))

        return register if function is None else register(function)

    def enqueue_many(self, calls: Iterable[BoundCall]) -> int:
        """Store many calls, as made by `task.bind(...)`; return how many jobs are new.

        `calls` may be a generator of any length: it is read, encoded and stored in bounded batches,
        one being stored while the next is read.

        Raises:
            DibsError: as `enqueue`. What was read before is stored, and the text says how many.
            Exception: as reading `calls` does, with a note that says how many are stored.
        """
        return self._producer.publish_many(batches(calls, self._producer))

    def worker(
        self,
        *,
        concurrency: int = 50,
        queues: Iterable[str] | None = None,
        shutdown_timeout: Seconds = 30,
        observe: "Observer | None" = None,
    ) -> "EmbeddedWorker":
        """Return a worker that runs jobs in threads of this process, for `run` or `drain`.

        For tests, debugging and small consumers: a task that holds the interpreter here holds up
        the heartbeats too. `dibs worker` keeps them apart.

        Args:
            concurrency: how many jobs run at a time.
            queues: the queues to serve, those of all tasks by default.
            shutdown_timeout: seconds that running jobs get after `stop`.
            observe: called in the worker's thread with each event of `dibs.events`; by default
                they go to the logger `dibs`.

        Raises:
            OptionError: `concurrency`, `queues` or `shutdown_timeout` is not what it can be.
        """
        slots, served = _slots(concurrency), _served(queues)
        stop_seconds = milliseconds("shutdown_timeout", shutdown_timeout) / 1_000
        from dibs.worker.embedded import EmbeddedWorker
        from dibs.worker.service import Plan

        plan = Plan(slots, 1, served, shutdown_timeout=stop_seconds)
        return EmbeddedWorker(self.url, self.tasks, plan, observe)

    def __repr__(self) -> str:
        return f"<App {redact(self.url)}, {len(self._tasks)} tasks>"

    def close(self) -> None:
        """Close the broker; done at exit, too. Enqueueing opens it again."""
        self._producer.close()

    def _register(self, task: AnyTask) -> AnyTask:
        other = self._tasks.setdefault(task.name, task)
        if other is not task:
            raise TaskDefinitionError(
                f"there are two tasks `{task.name}`: at {other.info.where} and at"
                f" {task.info.where}; give one of them another `name=`"
            )
        return task


def _slots(concurrency: object) -> int:
    """Return how many jobs a worker is to run at a time.

    Raises:
        OptionError: it is no number of jobs.
    """
    if isinstance(concurrency, int) and concurrency >= 1:
        return concurrency
    raise OptionError(f"`concurrency` is {concurrency!r}: it is a number of jobs, 1 or more")


def _served(queues: object) -> tuple[str, ...] | None:
    """Return the queues that a worker is to serve; None for those of all tasks.

    Raises:
        OptionError: they are no list of names, or there is none.
    """
    if queues is None:
        return None
    if isinstance(queues, str):
        raise OptionError(f"`queues` is {queues!r}: it is a list of names, as in [{queues!r}]")
    names: tuple[Any, ...] = tuple(queues) if isinstance(queues, Iterable) else (queues,)
    if not names:
        raise OptionError("`queues` is empty: name one, or leave it out for those of all tasks")
    if not all(isinstance(name, str) for name in names):
        raise OptionError(f"`queues` is {queues!r}: it is a list of names")
    return names
