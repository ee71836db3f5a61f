"""What a running task can ask about itself.

Owns: the context variable and the value behind `dibs.context()`.
Must never: talk to the broker; the lease's state is told to it by the runner.
Called by: runners (set it), user code (reads it).
"""

from contextvars import ContextVar
from uuid import UUID

from msgspec import Struct

from dibs.clock import SystemClock
from dibs.message import Lease


class JobContext(Struct, gc=False):
    """One run of one job, as its own code sees it.

    `deadline` is when the run's timeout is over, in seconds of `time.monotonic()`.
    `stop_reason` is None while all is well; "timeout" or "lease_lost" once the run should end: a
    settlement would be refused, or its outcome is decided already.
    """

    lease: Lease
    deadline: float
    stop_reason: str | None = None

    @property
    def job_id(self) -> str:
        """The job's id, the same in every attempt: a good idempotency key."""
        return str(UUID(bytes=self.lease.message.id))

    @property
    def task(self) -> str:
        """The task's name."""
        return self.lease.message.task

    @property
    def queue(self) -> str:
        """The queue that the job came from."""
        return self.lease.message.queue

    @property
    def attempt(self) -> int:
        """Which run this is, from 1."""
        return self.lease.attempt

    @property
    def fence(self) -> int:
        """The lease's fence: it grows with every claim of this job and is never reused.

        Use it in conditional writes of your own: refuse a write with a lower fence.
        """
        return self.lease.fence

    @property
    def lease_lost(self) -> bool:
        """Whether the job is another worker's by now."""
        return self.stop_reason == "lease_lost"

    @property
    def remaining_seconds(self) -> float:
        """Seconds until the run's timeout, negative after it."""
        return self.deadline - _clock.monotonic()


_clock = SystemClock()

current: ContextVar[JobContext | None] = ContextVar("dibs_job", default=None)
"""The job that runs here; a task spawned by the job inherits it."""


def context() -> JobContext:
    """Return the running job's context.

    Raises:
        LookupError: no job is running here: the function was called plainly.
    """
    job = current.get()
    if job is None:
        raise LookupError("no job is running here: dibs.context() works inside a task only")
    return job
