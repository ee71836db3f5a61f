"""A call to a server lasts no longer than its limit, whatever steps it takes."""

from dibs.testing import ManualClock
from dibs.wires.limit import Limit


def test_what_is_done_within_a_call_has_no_time_but_that_of_the_call() -> None:
    """A claim that first renews what was handed over is one call."""
    clock = ManualClock()
    limit = Limit(5, clock)
    with limit.together():
        ends = limit.until()
        clock.advance(1_000)
        with limit.together():
            assert limit.until() == ends
        clock.advance(1_000)
        assert limit.until() == ends
    assert limit.until() == ends + 2
