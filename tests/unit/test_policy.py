"""The policy: pure decisions, every edge of every budget."""

import pytest

from dibs.backoff import exponential, steps
from dibs.message import DeadLetter, Error, Lease, Message, Nack, Release
from dibs.policy import (
    UNKNOWN_GRACE_S,
    Retries,
    after_crash,
    after_failure,
    backoff_ms,
    before_run,
    is_retried,
    is_suspect,
    uniform_of,
    unknown_delay_s,
)

ERROR = Error("ValueError", "no")
MESSAGE = Message(bytes(16), "default", "resize", b"{}", max_attempts=5, max_crashes=3, max_lost=10)


def lease(failures: int = 0, crashes: int = 0, lost: int = 0, fence: int | None = None) -> Lease:
    claims = failures + crashes + lost + 1 if fence is None else fence
    return Lease(MESSAGE, claims, failures, crashes, lost, 0, 1)


def lowest(low: float, high: float) -> float:
    assert low <= high
    return low


def highest(low: float, high: float) -> float:
    assert low <= high
    return high


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 2), (2, 4), (5, 32), (11, 2048), (12, 3600), (10**6, 3600)]
)
def test_backoff_is_drawn_between_a_tenth_of_a_second_and_two_to_the_failures(
    failures: int, ceiling_s: int
) -> None:
    assert backoff_ms(exponential(), failures, lowest) == 100
    assert backoff_ms(exponential(), failures, highest) == ceiling_s * 1_000


def test_uniform_spans_its_bounds() -> None:
    assert uniform_of(bytes)(0.1, 2.0) == 0.1
    assert 1.999 < uniform_of(lambda count: b"\xff" * count)(0.1, 2.0) <= 2.0


@pytest.mark.parametrize("failures", range(4))
def test_a_failure_within_the_budget_goes_back(failures: int) -> None:
    outcome = after_failure(lease(failures), ERROR, exponential(), highest)
    assert outcome == Nack(2 ** (failures + 1) * 1_000, ERROR, "failure")


def test_the_last_failure_of_the_budget_is_a_dead_letter_that_counts_itself() -> None:
    outcome = after_failure(lease(4), ERROR, exponential(), highest)
    assert outcome == DeadLetter("max_attempts", ERROR, "failure")


def test_losses_and_crashes_do_not_use_up_the_failures() -> None:
    counted = lease(3, crashes=2, lost=9)
    assert isinstance(after_failure(counted, ERROR, exponential(), highest), Nack)


def test_a_task_that_asks_for_a_delay_gets_it_within_the_budget() -> None:
    within = after_failure(lease(3), ERROR, steps(9), highest, after_ms=0)
    assert within == Nack(0, ERROR, "failure")
    over = after_failure(lease(4), ERROR, steps(9), highest, after_ms=0)
    assert over == DeadLetter("max_attempts", ERROR, "failure")


@pytest.mark.parametrize("failures", [0, 4])
def test_an_error_that_is_not_retried_is_a_dead_letter_that_says_so(failures: int) -> None:
    outcome = after_failure(lease(failures), ERROR, exponential(), highest, retried=False)
    assert outcome == DeadLetter("not_retried", ERROR, "failure")


class Both(ConnectionError, ValueError):
    """Of two families."""


@pytest.mark.parametrize(
    ("kind", "retries", "retried"),
    [
        (ValueError, Retries(), True),
        (SystemExit, Retries(), True),
        (ValueError, Retries((ValueError,)), True),
        (UnicodeError, Retries((ValueError,)), True),
        (Exception, Retries((ValueError,)), False),
        (OSError, Retries((ValueError,)), False),
        (OSError, Retries(()), False),
        (OSError, Retries(None, (OSError,)), False),
        (FileNotFoundError, Retries(None, (OSError,)), False),
        (ValueError, Retries(None, (OSError,)), True),
        (FileNotFoundError, Retries((OSError,), (FileNotFoundError,)), False),
        (PermissionError, Retries((OSError,), (FileNotFoundError,)), True),
        (PermissionError, Retries((PermissionError,), (OSError,)), True),
        (FileNotFoundError, Retries((PermissionError,), (OSError,)), False),
        (ConnectionResetError, Retries((OSError,), (ConnectionError,)), False),
        (KeyError, Retries((PermissionError,), (OSError,)), False),
        (Both, Retries((ConnectionError,), (ValueError,)), True),
        (Both, Retries((OSError,), (ValueError,)), True),
        (Both, Retries((Exception,), (ValueError,)), False),
    ],
)
def test_the_nearest_type_that_is_named_says_whether_an_exception_is_retried(
    kind: type[BaseException], retries: Retries, retried: bool
) -> None:
    assert is_retried(kind, retries) is retried


def test_a_crash_goes_back_at_once_until_the_budget_is_used_up() -> None:
    assert after_crash(lease(crashes=1), ERROR) == Nack(0, ERROR, "crash")
    assert after_crash(lease(crashes=2), ERROR) == DeadLetter("max_crashes", ERROR, "crash")


@pytest.mark.parametrize(
    ("counted", "reason"),
    [(lease(5), "max_attempts"), (lease(crashes=3), "max_crashes"), (lease(lost=10), "max_lost")],
)
def test_a_used_up_budget_is_a_dead_letter_before_the_run_that_names_it(
    counted: Lease, reason: str
) -> None:
    outcome = before_run(counted, lacked_s=None)
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.charge) == (reason, "nothing")


def test_one_below_each_budget_still_runs() -> None:
    assert before_run(lease(4, crashes=2, lost=9), lacked_s=None) is None


def test_an_unknown_envelope_version_is_a_dead_letter_at_once() -> None:
    newer = Lease(Message(bytes(16), "q", "t", b"?", version=2), 1, 0, 0, 0, 0, 1)
    outcome = before_run(newer, lacked_s=None)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "unknown_version"


LONG = 10 * UNKNOWN_GRACE_S


def test_an_unknown_task_is_released_with_a_growing_delay_and_uncounted() -> None:
    delays = [before_run(lease(fence=1 + n), lacked_s=0) for n in range(9)]
    assert delays == [Release(s * 1_000) for s in (1, 2, 4, 8, 16, 32, 60, 60, 60)]


def test_an_unknown_task_is_a_dead_letter_after_a_grace_of_an_hour() -> None:
    waited, returns = 0, 0
    while isinstance(outcome := before_run(lease(fence=1 + returns), lacked_s=LONG), Release):
        waited += unknown_delay_s(returns)
        returns += 1
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "unknown_task"
    assert UNKNOWN_GRACE_S <= waited < UNKNOWN_GRACE_S + 60


def test_snoozes_do_not_shorten_the_grace_of_a_worker_that_lacks_the_task() -> None:
    snoozed = lease(fence=1_000)
    for lacked_s in (0, UNKNOWN_GRACE_S - 1):
        assert before_run(snoozed, lacked_s) == Release(60_000)
    assert isinstance(before_run(snoozed, UNKNOWN_GRACE_S), DeadLetter)


def test_failures_crashes_and_losses_are_not_polite_returns() -> None:
    counted = lease(3, crashes=2, lost=4)
    assert before_run(counted, lacked_s=0) == Release(1_000)


@pytest.mark.parametrize(
    ("counted", "alone"),
    [
        (lease(), False),
        (lease(failures=4), False),
        (lease(lost=1), False),
        (lease(lost=2), True),
        (lease(crashes=1), True),
    ],
)
def test_a_suspect_is_who_crashed_once_or_was_lost_twice(counted: Lease, alone: bool) -> None:
    assert is_suspect(counted) is alone
