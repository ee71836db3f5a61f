"""How far ahead a runner is fed, over time that is passed in."""

from dibs.worker.prefetch import AHEAD_SECONDS, MOST_AHEAD, STALL_SECONDS, Pace


def steady(pace: Pace, jobs_per_second: int, seconds: float, step: float = 0.001) -> float:
    """Let a runner finish jobs at a pace from second 0 on; return when it stopped."""
    pace.began(0.0)
    now = 0.0
    while now < seconds:
        now += step
        pace.finished(round(jobs_per_second * step), step, now)
    return now


def test_an_unmeasured_runner_is_given_nothing_ahead() -> None:
    assert Pace().ahead(0.0) == 0


def test_quick_jobs_are_given_what_starts_within_the_horizon() -> None:
    pace = Pace()
    now = steady(pace, 100_000, 0.2)
    assert abs(pace.ahead(now) - 100_000 * AHEAD_SECONDS) <= 20


def test_however_quick_the_jobs_are_the_memory_that_they_take_is_bounded() -> None:
    pace = Pace()
    now = steady(pace, 10_000_000, 0.2)
    assert pace.ahead(now) == MOST_AHEAD


def test_slow_jobs_are_never_given_ahead() -> None:
    pace = Pace()
    pace.began(0.0)
    for second in range(1, 10):
        pace.finished(5, 1.0, float(second))
        assert pace.ahead(float(second)) == 0


def test_a_runner_that_falls_silent_is_given_nothing_ahead() -> None:
    pace = Pace()
    now = steady(pace, 100_000, 0.2)
    assert pace.ahead(now + STALL_SECONDS * 0.99) > 0
    assert pace.ahead(now + STALL_SECONDS * 1.01) == 0
    assert pace.stalls_at() == now + STALL_SECONDS


def test_a_runner_that_stalled_has_to_prove_its_pace_again() -> None:
    pace = Pace()
    now = steady(pace, 100_000, 0.2)
    pace.stalled(now + 1)
    assert pace.ahead(now + 1) == 0


def test_a_burst_read_at_once_weighs_no_more_than_its_time() -> None:
    pace = Pace()
    now = steady(pace, 1_000, 0.5)
    pace.finished(10, 1e-6, now + 1e-6)
    assert pace.ahead(now + 1e-6) <= 3 * 1_000 * AHEAD_SECONDS


def test_time_without_work_does_not_slow_the_pace() -> None:
    pace = Pace()
    now = steady(pace, 100_000, 0.2)
    pace.began(now + 3_600)
    assert pace.ahead(now + 3_600) > 0.9 * 100_000 * AHEAD_SECONDS
