"""What happened, as values; an observer is a callable that takes one.

Owns: the events that the worker tells its observers (terminal, logs, metrics).
Must never: carry a value that an observer could change, or one per successful job: a hundred
thousand a second are counted, not told.
Called by: the worker (makes them), observers (match on them).
"""

from collections.abc import Callable

from msgspec import Struct

from dibs.message import Error, Lease, Outcome


class Settled(Struct, frozen=True, gc=False):
    """Settlements were applied: how many of each outcome."""

    done: int = 0
    failed: int = 0
    crashed: int = 0
    dead: int = 0
    released: int = 0
    late: int = 0


class Holding(Struct, frozen=True, gc=False):
    """`jobs` are in this worker now, running or about to; told when that has changed."""

    jobs: int


class JobFailed(Struct, frozen=True, gc=False):
    """A run ended in an error; `outcome` says what became of the job."""

    lease: Lease
    error: Error
    outcome: Outcome


class LeaseLost(Struct, frozen=True, gc=False):
    """A lease was another's before its job was settled; its settlement changed nothing."""

    lease: Lease
    ran: bool


class AlreadyDone(Struct, frozen=True, gc=False):
    """Jobs were not run: what their idempotency keys name is done. They count as done too."""

    jobs: int


class RunnerDied(Struct, frozen=True, gc=False):
    """A runner process died; its running jobs are charged a crash, its queued ones are not."""

    pid: int
    status: str
    running: int
    queued: int


class RunnerNotStarted(Struct, frozen=True, gc=False):
    """The system would not start a runner process; it is asked again in `retry_seconds`."""

    why: str
    retry_seconds: float


class RunnerCondemned(Struct, frozen=True, gc=False):
    """A job did not end after its timeout; its process takes no more jobs and will be replaced."""

    pid: int
    lease: Lease


class TaskUnknown(Struct, frozen=True, gc=False):
    """Jobs of a task arrive that this worker does not know; told once per name."""

    task: str
    queue: str


class TaskSlow(Struct, frozen=True, gc=False):
    """A run came near a limit. Set `option` to `advised_seconds`.

    Told once per task and option by a worker, however many runners it has.
    """

    task: str
    option: str
    ran_seconds: float
    limit_seconds: float
    advised_seconds: int


class BrokerTrouble(Struct, frozen=True, gc=False):
    """The broker did not do what it was asked; the worker tries again in `retry_seconds`.

    `kind` is the name of the error, which stays the same while its text counts the seconds.
    """

    kind: str
    text: str
    retry_seconds: float


class BrokerBack(Struct, frozen=True, gc=False):
    """The broker works again after trouble."""

    after_seconds: float


class Stopping(Struct, frozen=True, gc=False):
    """The worker claims nothing more; `running` jobs are given `seconds` to finish."""

    running: int
    seconds: float


Event = (
    Settled
    | Holding
    | JobFailed
    | LeaseLost
    | AlreadyDone
    | RunnerDied
    | RunnerNotStarted
    | RunnerCondemned
    | TaskUnknown
    | TaskSlow
    | BrokerTrouble
    | BrokerBack
    | Stopping
)

Observer = Callable[[Event], None]
