"""How long jobs wait after failures: each backoff, its limits, and every failure there can be."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dibs.backoff import SHORTEST_MS, exponential, fixed, steps
from dibs.brokers.capabilities import MAX_DURATION_MS
from dibs.brokers.contract import MAX_BUDGET
from dibs.errors import OptionError
from dibs.message import Backoff
from dibs.policy import backoff_ms, uniform_of

FAILURES = st.integers(1, MAX_BUDGET)
CHANCE = st.binary(min_size=7, max_size=7)
LONG = MAX_DURATION_MS // 1_000
DELAYS = st.floats(0, LONG) | st.timedeltas(timedelta(), timedelta(seconds=LONG))
CEILINGS = st.floats(0.1, LONG) | st.timedeltas(timedelta(seconds=0.1), timedelta(seconds=LONG))


def ms(seconds: float | timedelta) -> int:
    of = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    return round(of * 1_000)


def drawn(backoff: Backoff, failures: int, chance: bytes) -> int:
    return backoff_ms(backoff, failures, uniform_of(lambda _: chance))


@given(CEILINGS, CEILINGS, FAILURES, CHANCE)
def test_an_exponential_delay_is_within_its_bounds_after_any_failure(
    first: float | timedelta, longest: float | timedelta, failures: int, chance: bytes
) -> None:
    delay = drawn(exponential(first=first, longest=longest), failures, chance)
    # Forty doublings of the shortest are over the longest there can be.
    ceiling = min(ms(longest), ms(first) << min(failures - 1, 40))
    assert SHORTEST_MS <= delay <= ceiling


@given(DELAYS, FAILURES, CHANCE)
def test_a_fixed_delay_is_the_same_after_any_failure(
    seconds: float | timedelta, failures: int, chance: bytes
) -> None:
    assert drawn(fixed(seconds), failures, chance) == ms(seconds) <= MAX_DURATION_MS


@given(st.lists(DELAYS, min_size=1, max_size=8), FAILURES, CHANCE)
def test_steps_are_taken_in_turn_and_the_last_is_repeated(
    seconds: list[float | timedelta], failures: int, chance: bytes
) -> None:
    expected = seconds[failures - 1] if failures <= len(seconds) else seconds[-1]
    assert drawn(steps(*seconds), failures, chance) == ms(expected)


def test_the_ceilings_double_from_the_first_to_the_longest() -> None:
    backoff = exponential(first=5, longest=timedelta(seconds=30))
    ceilings = [backoff_ms(backoff, n, lambda _, high: high) for n in range(1, 6)]
    assert ceilings == [5_000, 10_000, 20_000, 30_000, 30_000]
    assert exponential(first=60, longest=10) == exponential(first=10, longest=10)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: exponential(first=0.05), "`first` is 0.05: it is at least 0.1 seconds"),
        (lambda: exponential(longest=float("inf")), "`longest` is inf"),
        (lambda: exponential(longest=LONG + 1), "which is ten years"),
        (lambda: fixed(-1), "`seconds` is -1"),
        (lambda: fixed(float("nan")), "`seconds` is nan"),
        (lambda: fixed(timedelta(days=-1)), "`seconds` is datetime.timedelta(days=-1)"),
        (lambda: steps(1, -5), "`steps` is -5"),
        (steps, "`steps` has no delay"),
        (lambda: steps([1, 5]), "`steps` is [1, 5]: give seconds, or a `timedelta`"),  # type: ignore[arg-type]
    ],
)
def test_a_delay_is_checked_where_it_is_written(make: Any, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert text in str(caught.value)
