"""What becomes of a job, decided: counters and an error in, an outcome out.

Owns: the three budgets, which error is retried and when, who is a suspect, and what happens to a
task nobody knows.
Must never: read a clock, draw randomness of its own, or talk to a broker; `uniform` is passed in.
Called by: the runners (failures: the exception is there) and the pump (everything else).
"""

from collections.abc import Callable

from msgspec import Struct

from dibs.clock import Randomness
from dibs.message import (
    ENVELOPE_VERSION,
    Backoff,
    DeadLetter,
    Error,
    Lease,
    Nack,
    Outcome,
    Reason,
    Release,
)

LONGEST_UNKNOWN_DELAY_S = 60
UNKNOWN_GRACE_S = 3_600

Uniform = Callable[[float, float], float]
"""Draws a float between its two arguments."""


def uniform_of(randomness: Randomness) -> Uniform:
    """Return a `Uniform` that draws from `randomness`; `random` would cost a start 5 ms."""
    return lambda low, high: low + (high - low) * int.from_bytes(randomness(7)) / (1 << 56)


class Retries(Struct, frozen=True):
    """Which exceptions of a task are tried again; `retry_on` None stands for all."""

    retry_on: tuple[type[BaseException], ...] | None = None
    give_up_on: tuple[type[BaseException], ...] = ()


def is_retried(kind: type[BaseException], retries: Retries) -> bool:
    """Say whether an exception of type `kind` is tried again.

    The type itself decides, or else the nearest of its bases (in the order of the interpreter's
    own look-ups) that is named; if none is, only a `retry_on` that was given speaks against it.
    """
    for one in kind.__mro__:
        if one in retries.give_up_on:
            return False
        if retries.retry_on is not None and one in retries.retry_on:
            return True
    return retries.retry_on is None


def backoff_ms(backoff: Backoff, failures: int, uniform: Uniform) -> int:
    """Return the delay before the run after failure number `failures` (1 or more), in ms."""
    ranges = backoff.ranges_ms
    return round(uniform(*ranges[min(failures, len(ranges)) - 1]))


def after_failure(
    lease: Lease,
    error: Error,
    backoff: Backoff,
    uniform: Uniform,
    *,
    retried: bool = True,
    after_ms: int | None = None,
) -> Outcome:
    """Decide after the task raised, or ran past its timeout.

    `retried`: whether this error is tried again at all. `after_ms`: the delay that the task itself
    asked for, in the place of its backoff.
    """
    failures = lease.failures + 1
    if not retried:
        return DeadLetter("not_retried", error, "failure")
    if failures >= lease.message.max_attempts:
        return DeadLetter("max_attempts", error, "failure")
    delay_ms = backoff_ms(backoff, failures, uniform) if after_ms is None else after_ms
    return Nack(delay_ms, error, "failure")


def timed_out(lease: Lease) -> Error:
    """Return the error of a run that was told to end because of its timeout."""
    seconds = lease.message.timeout_ms / 1_000
    return Error("TimeoutError", f"ran longer than its timeout of {seconds:g} s")


def after_crash(lease: Lease, error: Error) -> Outcome:
    """Decide after the process running the job died; the next run is at once, and alone."""
    if lease.crashes + 1 >= lease.message.max_crashes:
        return DeadLetter("max_crashes", error, "crash")
    return Nack(0, error, "crash")


def before_run(lease: Lease, lacked_s: float | None) -> Outcome | None:
    """Decide whether a claimed job may run at all; None is yes.

    `lacked_s`: for how many seconds this worker has known that it lacks the task; None if it has.
    """
    message = lease.message
    if message.version != ENVELOPE_VERSION:
        return _dead(
            "unknown_version",
            f"envelope version {message.version} is not {ENVELOPE_VERSION}; a newer dibs wrote it",
        )
    for reason, count, budget in _budgets(lease):
        if count >= budget:
            return _dead(reason, f"{count} of {budget} are used up")
    return None if lacked_s is None else _unknown(lease, lacked_s)


def is_suspect(lease: Lease) -> bool:
    """Say whether a job must run in a process of its own: what dies there, alone, is guilty.

    One loss charges nobody: the death of a whole worker loses all of its jobs, guilty or not.
    """
    return lease.crashes > 0 or lease.lost > 1


def unknown_delay_s(polite_returns: int) -> int:
    """Return how long a job of an unknown task waits: 1, 2, 4 ... 60 s."""
    return min(LONGEST_UNKNOWN_DELAY_S, 1 << min(polite_returns, 6))


def _budgets(lease: Lease) -> tuple[tuple[Reason, int, int], ...]:
    message = lease.message
    return (
        ("max_attempts", lease.failures, message.max_attempts),
        ("max_crashes", lease.crashes, message.max_crashes),
        ("max_lost", lease.lost, message.max_lost),
    )


def _unknown(lease: Lease, lacked_s: float) -> Outcome:
    """Release a job of an unknown task, or give it up after the grace.

    Every claim raises the fence and every claim but a politely returned one raises a counter, so
    their difference is the number of polite returns: what a job has waited, whatever worker met it.
    A task may have returned it as politely, by a snooze; so this worker's own time counts too.
    """
    returns = lease.fence - lease.attempt
    waited = sum(unknown_delay_s(n) for n in range(min(returns, UNKNOWN_GRACE_S)))
    if min(waited, lacked_s) >= UNKNOWN_GRACE_S:
        name = lease.message.task
        return _dead("unknown_task", f"no worker knew the task {name!r} for {lacked_s:.0f} s")
    return Release(unknown_delay_s(returns) * 1_000)


def _dead(reason: Reason, text: str) -> DeadLetter:
    return DeadLetter(reason, Error("dibs.policy", text))
