"""One run of one job: payload in, outcome out.

Owns: turning what a task did (returned, raised, could not be called) into an outcome, and
noticing runs that come near a limit.
Must never: let an exception of user code out, or decide on a retry (that is `policy`).
Called by: the loop runner and the thread runner, around the call of the user's function.
"""

import traceback
from collections.abc import Callable

from msgspec.structs import replace

from dibs.clock import system_randomness
from dibs.control import Reject, Retry, Snooze
from dibs.errors import PayloadError, ResultError
from dibs.idempotency import KEPT_SECONDS, record_id
from dibs.message import Ack, DeadLetter, Error, Lease, Message, Nack, Outcome, Record, Release
from dibs.policy import after_failure, is_retried, timed_out, uniform_of
from dibs.runners.contract import Slow
from dibs.running import JobContext
from dibs.task import AnyTask

NEAR = 0.8
"""A run that took this share of its timeout came near it."""

MAX_RESULT_BYTES = 1 << 20
"""As of the arguments: all that a worker settles waits behind a result on its way to the broker."""

_RAISED = (Snooze, Retry, Reject)
_MAX_TRACEBACK = 16_384
_MAX_TEXT = 4_096

_uniform = uniform_of(system_randomness)


def describe(exc: BaseException) -> Error:
    """Return an exception as data, bounded in size; its own `__str__` may fail too."""
    try:
        text = str(exc)
    except Exception:
        text = "(its __str__ raised)"
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__package__") == __package__:
        frames = frames.tb_next  # ours say nothing to the task's author
    kind = type(exc)
    try:
        lines = "".join(traceback.format_exception(kind, exc, frames, limit=-50))
    except Exception:
        lines = "(its traceback cannot be printed)\n"  # an exception may lie about itself
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    return Error(name, _clean(text[:_MAX_TEXT]), _clean(lines[-_MAX_TRACEBACK:]))


def failed(task: AnyTask, job: JobContext, exc: BaseException) -> Outcome:
    """Return the outcome of a run that raised `exc`.

    One that was told that its time is over has failed, also if it asks for something else: the pump
    would fail it just so if it ended a moment later.
    """
    if isinstance(exc, PayloadError):
        return DeadLetter("undecodable", describe(exc))
    if job.stop_reason == "timeout":
        return _timed_out(task, job)
    match exc:
        case Snooze():
            return Release(exc.delay_ms)
        case Reject():
            return DeadLetter("rejected", _asked(exc), "failure")
        case Retry():
            return _retry(task, job, exc)
        case _:
            retried = is_retried(type(exc), task.retries)
            error, backoff = describe(exc), task.info.backoff
            return after_failure(job.lease, error, backoff, _uniform, retried=retried)


def _timed_out(task: AnyTask, job: JobContext) -> Outcome:
    return after_failure(job.lease, timed_out(job.lease), task.info.backoff, _uniform)


def _retry(task: AnyTask, job: JobContext, exc: Retry) -> Outcome:
    error, backoff = _asked(exc), task.info.backoff
    outcome = after_failure(job.lease, error, backoff, _uniform, after_ms=exc.after_ms)
    if isinstance(outcome, Nack):
        # As planned: its text is enough. The traceback of its cause is for the dead letter.
        return replace(outcome, error=replace(error, traceback=""))
    return outcome


def _asked(exc: Retry | Reject) -> Error:
    """Return what a task says by raising `exc`: its text and its cause, not the way there."""
    asked = describe(exc)
    if exc.__cause__ is None:
        return Error(asked.type, asked.message or "asked for by the task")
    cause = describe(exc.__cause__)
    text = f"{cause.type}: {cause.message}"
    message = f"{asked.message} ({text})" if asked.message else text
    return Error(asked.type, message, cause.traceback)


def returned(task: AnyTask, value: object, job: JobContext) -> Outcome | None:
    """Return the outcome of a run that returned `value`; None stands for a plain `Ack()`.

    One that was told that its time is over has failed, however it ended (law 10 of the design). The
    job is a dead letter if the value is to be kept, and is no JSON, or too large; or if it cannot
    have been meant: a coroutine, or what is to be raised.
    """
    if job.stop_reason == "timeout":
        return _timed_out(task, job)
    if value is not None and (why := _mistaken(task, value)):
        return _unencodable(why)
    keep_ms = task.info.keep_result_ms
    message = job.lease.message
    # Few jobs have headers, so that the others pay for one look.
    record = _record(task, message) if message.headers else None
    if not keep_ms:
        return None if record is None else Ack(None, 0, record)
    try:
        result = task.codec.encode_result(value)
    except ResultError as exc:
        return _unencodable(str(exc))
    if len(result) > MAX_RESULT_BYTES:
        return _unencodable(
            f"`{task.name}` returned {len(result):,} bytes, and the limit is {MAX_RESULT_BYTES:,}:"
            " store the data elsewhere and return its address, or keep no result"
        )
    return Ack(result, keep_ms, record)


def _mistaken(task: AnyTask, value: object) -> str | None:
    """Say why a task cannot have meant to return `value`, or None."""
    if hasattr(value, "__await__"):
        return (
            f"`{task.name}` returned an awaitable that nobody awaits, so nothing was done: make the"
            " task, or the decorator around it, as an `async def`"
        )
    if isinstance(value, _RAISED):
        kind = type(value).__name__
        return f"`{task.name}` returned a `{kind}`, which asks for nothing: raise it"
    return None


def _record(task: AnyTask, message: Message) -> Record | None:
    """Return what is to be kept of a job's idempotency key, if it has one."""
    key = record_id(message)
    # The job counts, as it was enqueued: the task may have no key any more, or not yet, here.
    return None if key is None else Record(key, task.info.keep_key_ms or KEPT_SECONDS * 1_000)


def _unencodable(why: str) -> DeadLetter:
    """Give up, without a traceback: there is no line of the task's own where it happened."""
    error = Error("dibs.errors.ResultError", _clean(why[:_MAX_TEXT]), "")
    return DeadLetter("unencodable_result", error, "failure")


class SlowTasks:
    """Notices runs that came near a limit, once per task and option; other runners do too."""

    def __init__(self, tell: Callable[[Slow], None]) -> None:
        self._tell = tell
        self._told: set[tuple[str, str]] = set()

    def look(self, task: AnyTask, lease: Lease, ran_ns: int) -> None:
        """Judge one run; called only for those over half their visibility timeout or near."""
        message = lease.message
        ran = ran_ns / 1e9
        if ran * 1_000 >= NEAR * message.timeout_ms:
            self._once(message.task, "timeout", ran, message.timeout_ms / 1_000)
        if not task.info.heartbeat and ran * 2_000 > message.visibility_timeout_ms:
            limit = message.visibility_timeout_ms / 1_000
            self._once(message.task, "visibility_timeout", ran, limit)

    def _once(self, name: str, option: str, ran: float, limit: float) -> None:
        if (name, option) not in self._told:
            self._told.add((name, option))
            self._tell(Slow(name, option, ran, limit))


def _clean(text: str) -> str:
    """Lone surrogates have no UTF-8, and the text must survive the way to the broker."""
    return text.encode("utf-8", "backslashreplace").decode()
