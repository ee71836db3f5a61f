"""How a job is delivered: units, ranges, and the texts for what is out of them."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dibs.errors import OptionError
from dibs.options import Options, revised


def refusal(**given: Any) -> str:
    with pytest.raises(OptionError) as caught:
        revised(Options(), given)
    return str(caught.value)


def test_the_defaults_are_the_designs() -> None:
    assert Options() == Options(
        queue="default",
        priority=0,
        delay_ms=0,
        due_ms=0,
        visibility_timeout_ms=30_000,
        timeout_ms=900_000,
        max_attempts=5,
        max_crashes=3,
        max_lost=10,
        unique_key=None,
    )


def test_what_is_given_is_converted_and_the_rest_stays() -> None:
    given = {
        "delay": timedelta(minutes=1),
        "timeout": 0.5,
        "visibility_timeout": 1,
        "priority": 9,
        "queue": "a-b_C9",
        "unique_key": "müller/7",
        "max_attempts": 1,
    }
    made = revised(Options(max_lost=4), given)
    assert made == Options(
        queue="a-b_C9",
        priority=9,
        delay_ms=60_000,
        visibility_timeout_ms=1_000,
        timeout_ms=500,
        max_attempts=1,
        max_lost=4,
        unique_key="müller/7",
    )


def test_run_at_is_a_moment_in_any_time_zone() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert revised(Options(), {"run_at": moment}).due_ms == 1_893_456_000_000
    assert revised(Options(), {"run_at": moment.astimezone()}).due_ms == 1_893_456_000_000


def test_the_later_word_on_when_to_run_counts() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    later = revised(revised(Options(), {"delay": 5}), {"run_at": moment})
    assert (later.delay_ms, later.due_ms) == (0, 1_893_456_000_000)
    assert revised(later, {"delay": 5}) == Options(delay_ms=5_000)
    assert "both say when" in refusal(delay=5, run_at=moment)


@pytest.mark.parametrize("name", ["delay", "timeout", "visibility_timeout"])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, 1e300, 10**400, timedelta.max])
def test_negative_and_absurd_durations_are_refused(name: str, value: object) -> None:
    text = refusal(**{name: value})
    assert text.startswith(f"`{name}` is ")
    assert "315,360,000, which is ten years" in text


@pytest.mark.parametrize("value", ["5", True, None.__class__, [1]])
def test_a_duration_is_a_number_of_seconds_or_a_timedelta(value: object) -> None:
    assert "give seconds, or a `timedelta`" in refusal(delay=value)


def test_a_lease_shorter_than_a_second_is_refused() -> None:
    assert refusal(visibility_timeout=0.999).startswith(
        "`visibility_timeout` is 0.999: it is at least 1 seconds"
    )
    assert refusal(timeout=0).startswith("`timeout` is 0: it is at least 0.001 seconds")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (datetime(2030, 1, 1), "2030-01-01T00:00:00 without a time zone: add one"),
        (datetime(1969, 1, 1, tzinfo=UTC), "between the years 1970 and 9999"),
        (datetime.max.replace(tzinfo=UTC), "between the years 1970 and 9999"),
        ("2030-01-01", "give a `datetime` with a time zone"),
        (1_893_456_000, "give a `datetime` with a time zone"),
    ],
)
def test_a_moment_that_nobody_can_tell_is_refused(value: object, says: str) -> None:
    text = refusal(run_at=value)
    assert text.startswith("`run_at` is ")
    assert says in text


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("priority", [-1, 10, 1.0, True, "1"], "a whole number from 0 to 9"),
        ("max_attempts", [0, -1, 1_000_001, 10**9, 1.5, False], "a whole number from 1 to 1,000,0"),
        ("queue", ["", "a b", "a.b", "x" * 61, "ü", "a\n", 5, "x" * 10_000], "1 to 60 of A-Z"),
        ("unique_key", ["", "x" * 513, "\ud800", 5], "text of 1 to 512 bytes"),
    ],
)
def test_the_range_of_an_option_is_said(name: str, values: list[object], says: str) -> None:
    for value in values:
        text = refusal(**{name: value})
        assert text.startswith(f"`{name}` is ")
        assert says in text
        assert len(text) < 300
