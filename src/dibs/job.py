"""What a caller holds of an enqueued call.

Owns: `Job`, and how the end of a job is told to whoever waits for it.
Must never: hold the arguments, change, or cost an enqueue more than its few fields.
Called by: tasks, which return one from `enqueue`; user code.
"""

from typing import Generic, Literal, TypeVar, cast

from msgspec import Struct

from dibs.brokers.contract import Broker
from dibs.codec import Codec
from dibs.errors import JobFailed, ResultNotKept
from dibs.idempotency import KeyForm
from dibs.message import Result, TaskInfo
from dibs.producer.ids import as_text
from dibs.producer.producer import Producer

R_co = TypeVar("R_co", covariant=True)

Status = Literal["ready", "scheduled", "in flight", "done", "dead", "gone"]
"""Where a job is. "done" and "gone" are both over; of a gone one nothing is kept: it was done
without a result, or its time is over, or somebody cleared it away."""


class Origin(Struct, frozen=True, eq=False):
    """What all jobs of a task share."""

    info: TaskInfo
    codec: Codec
    producer: Producer
    key_form: KeyForm | None = None


class Job(Struct, Generic[R_co], frozen=True):
    """An enqueued call of a task that returns `R`. It is stored, as durably as the broker can.

    Attributes:
        key: the id as it lies in the broker, 16 bytes.
        queue: the queue that it was sent to; None if it was found by its id.
        duplicate: whether nothing was stored now, because a live job has the same `unique_key`;
            this is then the id of that job.
    """

    key: bytes
    _origin: Origin
    queue: str | None = None
    duplicate: bool = False

    @property
    def id(self) -> str:
        """The id, as a UUID in text; the same in every attempt, and in every log.

        Store it where the answer will be asked for, and find the job again by `task.job(id)`.
        """
        return as_text(self.key)

    @property
    def task(self) -> str:
        """The task's name."""
        return self._origin.info.name

    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the end of the job, and return what the task returned.

        It is read as the type that the task's return annotation says. In an event loop use
        `aresult`: this one holds the loop up.

        Args:
            timeout: how many seconds to wait; None is for as long as it takes, 0 looks once.

        Raises:
            TimeoutError: it has not ended within that time. It goes on, and can be asked again.
            JobFailed: it was given up on; what happened is in it.
            ResultNotKept: it has ended, and what it returned is not there, or not any more.
            ResultError: what it returned is not what the annotation says.
            OptionError: `timeout` is negative, NaN, or no number.
            BrokerError: the broker could not be asked.
        """
        return self._returned(self._ended(timeout))

    async def aresult(self, timeout: float | None = None) -> R_co:  # noqa: ASYNC109 - as `result`
        """Wait for the result, as `result` does, without holding up the event loop.

        Cancelling the wait changes nothing for the job.
        """
        from asyncio import wrap_future

        return self._returned(await wrap_future(self._origin.producer.end_of(self.key, timeout)))

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the job, whatever it is: done, or given up on.

        Args:
            timeout: as for `result`.

        Raises:
            TimeoutError: it has not ended within that time.
            OptionError: `timeout` is negative, NaN, or no number.
            BrokerError: the broker could not be asked.
        """
        self._ended(timeout)

    def status(self) -> Status:
        """Look once where the job is.

        Raises:
            BrokerError: the broker could not be asked.
            OptionError: it cannot show single jobs.
        """
        return self._origin.producer.look(self._status_in)

    def __repr__(self) -> str:
        where = f" in queue {self.queue}" if self.queue else ""
        was = ", it was there already" if self.duplicate else ""
        return f"<Job {self.id} of {self.task}{where}{was}>"

    def _status_in(self, broker: Broker) -> Status:
        view = broker.inspector().job(self.key)
        if view is not None:
            return view.state.value
        (end,) = broker.results([self.key])
        return "done" if end is not None and end.kept else "gone"

    def _ended(self, timeout: float | None) -> Result:
        future = self._origin.producer.end_of(self.key, timeout)
        try:
            return future.result()
        finally:
            future.cancel()  # of use if this wait was interrupted: nobody is to look for it then

    def _returned(self, end: Result) -> R_co:
        if end.error is not None:
            raise self._failure(end)
        if end.kept:
            value = b"null" if end.value is None else end.value
            return cast("R_co", self._origin.codec.decode_result(value))
        if self._origin.codec.returns == "nothing":
            return cast("R_co", None)
        raise ResultNotKept(f"the job {self.id} has ended, but {self._why_not_kept()}")

    def _failure(self, end: Result) -> JobFailed:
        assert end.error is not None
        assert end.reason is not None
        error = end.error
        text = f"the job {self.id} of `{self.task}` failed for good ({end.reason})"
        failure = JobFailed(
            f"{text}: {error.type}: {error.message}", end.reason, error, end.attempts
        )
        if error.traceback:
            failure.add_note(f"In the worker:\n{error.traceback}")
        return failure

    def _why_not_kept(self) -> str:
        info, codec = self._origin.info, self._origin.codec
        if codec.returns == "unsaid":
            return (
                f"`{self.task}` does not say what it returns, and nothing is kept of it: annotate"
                " its result, with `-> None` if there is none"
            )
        if not info.keep_result_ms:
            return f"`{self.task}` keeps no results (`keep_result=0`)"
        return (
            f"nothing is kept of it: a result of `{self.task}` is there for"
            f" {info.keep_result_ms / 1_000:g} s (`keep_result=`), and not if somebody cleared the"
            " job away, or if there never was one of this id"
        )
