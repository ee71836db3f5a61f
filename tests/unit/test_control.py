"""The exceptions by which a task says what becomes of its job, as values."""

import copy
import pickle
from datetime import timedelta
from typing import Any

import pytest

import dibs
from dibs import App, Reject, Retry, Snooze
from dibs.errors import OptionError


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Retry(after=-1), "`after` is -1"),
        (lambda: Retry(after="1"), "`after` is '1': give seconds, or a `timedelta`"),  # type: ignore[arg-type]
        (lambda: Retry(after=timedelta(days=4_000)), "which is ten years"),
        (lambda: Retry(3_600), "`reason` is 3600, not a text: did you mean `after=`?"),  # type: ignore[arg-type]
        (lambda: Snooze(0), "`seconds` is 0: it is at least 0.1 seconds"),
        (lambda: Snooze(float("nan")), "`seconds` is nan"),
        (lambda: Snooze(None), "`seconds` is None"),  # type: ignore[arg-type]
    ],
)
def test_what_is_asked_for_is_checked_where_it_is_raised(make: Any, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert text in str(caught.value)


def test_durations_are_seconds_or_timedeltas() -> None:
    assert (Retry().after_ms, Retry(after=0).after_ms) == (None, 0)
    assert Retry(after=1.5).after_ms == Retry(after=timedelta(seconds=1.5)).after_ms == 1_500
    assert Snooze(60).delay_ms == Snooze(timedelta(minutes=1)).delay_ms == 60_000


@pytest.mark.parametrize(
    ("exc", "text"),
    [(Retry("closed", after=5), "closed"), (Snooze(60), "60"), (Reject("no card"), "no card")],
)
def test_they_come_whole_from_another_process(exc: Exception, text: str) -> None:
    # Not by us: a task may itself use a pool of processes, and raise there.
    for other in (copy.copy(exc), pickle.loads(pickle.dumps(exc))):
        assert (type(other), str(other), vars(other)) == (type(exc), text, vars(exc))


def test_they_are_printed_as_they_are_imported() -> None:
    assert [f"{one.__module__}.{one.__name__}" for one in (Retry, Snooze, Reject)] == [
        "dibs.Retry", "dibs.Snooze", "dibs.Reject",
    ]  # fmt: skip
    assert dibs.Retry is Retry
    assert {"Retry", "Snooze", "Reject", "backoff"} <= set(dir(dibs))


def test_a_task_that_is_called_plainly_raises_them_to_its_caller() -> None:
    app = App("memory://control")

    @app.task
    def charge() -> None:
        raise Reject("no such card")

    with pytest.raises(Reject, match="no such card"):
        charge()
