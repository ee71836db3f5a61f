"""The worker's terminal: one line each, no floods, no steering, a summary while there is work."""

import os
import select
import threading
from typing import Any

import pytest

from dibs import events
from dibs.cli.lines import WAIT_SECONDS, Lines
from dibs.cli.terminal import MOST_KINDS, SHOWN_A_SECOND, Terminal
from dibs.message import DeadLetter, Error, Lease, Message, Nack, Outcome
from dibs.testing.clock import ManualClock
from dibs.text import duration, one_line, printable

ERROR = Error("ValueError", "bad", "Traceback (most recent call last):\n  x\nValueError: bad\n")


class Screen:
    """A terminal, its clock, and what it printed."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.printed = ""
        self.tell = Terminal(self._write, self.clock)

    def _write(self, text: str) -> None:
        self.printed += text

    @property
    def lines(self) -> list[str]:
        """The lines that have a time, without it."""
        return [line[9:] for line in self.printed.splitlines() if line[2:3] == ":"]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def lease(task: str = "resize", **counters: int) -> Lease:
    values = {"failures": 0, "crashes": 0, "lost": 0, **counters}
    return Lease(Message(bytes(16), "default", task, b"{}"), 1, **values, expiry_ms=0, receipt=0)


def failed(outcome: Outcome, held: Lease | None = None, error: Error = ERROR) -> events.JobFailed:
    return events.JobFailed(held or lease(), error, outcome)


ID = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            failed(Nack(3_200, ERROR)),
            f"resize {ID} failed (attempt 1): retry in 3.2 s (failure 1 of 5)",
        ),
        (
            failed(DeadLetter("max_attempts", ERROR, "failure"), lease(failures=4)),
            f"resize {ID} failed (attempt 5): dead letter: max_attempts after 5",
        ),
        (
            failed(DeadLetter("undecodable", ERROR)),
            f"resize {ID} failed (attempt 1): dead letter: undecodable",
        ),
        (
            failed(Nack(0, ERROR, "crash")),
            f"resize {ID} failed (attempt 1): again now, in a process of its own (crash 1 of 3)",
        ),
        (
            events.RunnerDied(7, "signal SIGSEGV", 1, 2),
            (
                "runner process 7 died (signal SIGSEGV): 1 running job charged a crash,"
                " 2 queued jobs given back"
            ),
        ),
        (
            events.RunnerCondemned(7, lease()),
            (
                f"resize {ID} did not end after its timeout of 15 min: runner process 7 takes no"
                " more jobs, and is replaced"
            ),
        ),
        (
            events.LeaseLost(lease(), ran=True),
            (
                f"resize {ID}: the lease is lost and the job is another worker's; what this run"
                " did, another does again"
            ),
        ),
        (
            events.TaskUnknown("resize", "photos"),
            (
                "queue photos has jobs of task resize, which this app lacks: they are given back,"
                " for a worker that has it"
            ),
        ),
        (
            events.TaskSlow("resize", "timeout", 812.5, 900, 1625),
            "resize ran for 14 min, near its timeout of 15 min: set timeout=1625 or more",
        ),
        (
            events.BrokerTrouble("BrokerFull", "disk", 0.1),
            "the broker fails: BrokerFull: disk; trying again",
        ),
        (events.BrokerBack(2.5), "the broker works again, after 2.5 s"),
        (
            events.Stopping(3, 30),
            "stopping: 3 jobs held here, 30 s to finish; stop again to end at once",
        ),
    ],
)
def test_each_event_is_one_line(screen: Screen, event: events.Event, line: str) -> None:
    screen.tell(event)
    assert screen.lines == [line]


def test_a_failure_shows_its_traceback(screen: Screen) -> None:
    screen.tell(failed(Nack(100, ERROR)))
    assert screen.printed.endswith(
        "    Traceback (most recent call last):\n      x\n    ValueError: bad\n"
    )


def test_an_error_without_traceback_shows_its_text(screen: Screen) -> None:
    screen.tell(failed(Nack(0, Error("RunnerDied", "signal 9"), "crash"), None, Error("R", "gone")))
    assert screen.printed.endswith("    R: gone\n")


def test_a_storm_of_failures_is_counted(screen: Screen) -> None:
    for _ in range(1_000):
        screen.tell(failed(Nack(100, ERROR)))
    assert len(screen.lines) == SHOWN_A_SECOND
    screen.clock.advance(1_000)
    screen.tell.tick()
    assert screen.lines[-1] == "not shown: 995 × resize failed with ValueError"
    assert not screen.tell.busy.is_set()


def test_a_storm_that_goes_on_is_counted_every_second(screen: Screen) -> None:
    for _ in range(3 * 100):
        screen.tell(failed(Nack(100, ERROR)))
        screen.clock.advance(10)
    assert [line for line in screen.lines if "not shown" in line] == [
        "not shown: 95 × resize failed with ValueError"
    ] * 2


def test_a_storm_does_not_hide_the_first_failure_of_each_kind(screen: Screen) -> None:
    kinds = [(task, name) for task in ("resize", "send") for name in ("KeyError", "ValueError")]
    tasks = [(f"task_{number}", "OSError") for number in range(18)]
    for task, name in 100 * [*kinds, *tasks]:
        screen.tell(failed(Nack(100, ERROR), lease(task), Error(name, "bad", f"by {task}: {name}")))
    for task, name in [*kinds, *tasks]:
        assert screen.printed.count(f"    by {task}: {name}\n") == 1
    assert len(screen.lines) == 22
    screen.clock.advance(1_000)
    screen.tell.tick()
    assert screen.lines[-1].startswith("not shown: 99 × resize failed with KeyError, 99 × ")
    assert screen.lines[-1].endswith(" and 17 kinds more")


def test_each_second_shows_the_first_failure_of_a_kind_again(screen: Screen) -> None:
    for _ in range(2):
        for task in (*"abcdef", *"abcdef"):
            screen.tell(failed(Nack(100, ERROR), lease(task)))
        screen.clock.advance(1_000)
    assert len([line for line in screen.lines if "failed (" in line]) == 12


def test_not_even_a_storm_of_kinds_is_a_flood(screen: Screen) -> None:
    for number in range(1_000):
        screen.tell(failed(Nack(100, ERROR), lease(f"task_{number}")))
    assert len(screen.lines) == MOST_KINDS
    screen.clock.advance(1_000)
    screen.tell.tick()
    assert screen.lines[-1] == "not shown: 950 × others"


def test_one_storm_does_not_hide_other_events(screen: Screen) -> None:
    for _ in range(50):
        screen.tell(events.LeaseLost(lease(), ran=False))
    screen.tell(events.Stopping(1, 30))
    assert screen.lines[-1].startswith("stopping")


def test_nothing_of_a_task_or_an_error_can_steer_the_terminal(screen: Screen) -> None:
    evil = "a\x1b[2J\r\n\x9b1mb\u202e"
    error = Error(evil, evil, evil)
    screen.tell(failed(Nack(1, error), lease(evil), error))
    screen.tell(events.TaskUnknown(evil, evil))
    screen.tell(events.BrokerTrouble("BrokerFull", evil, 1))
    for steering in ("\x1b", "\r", "\x9b", "\u202e"):
        assert steering not in screen.printed
    assert len(screen.lines) == 3


def test_a_summary_every_ten_seconds_while_there_is_work_and_then_silence(screen: Screen) -> None:
    for _ in range(25):
        screen.tell(events.Settled(done=100, failed=1))
        screen.clock.advance(1_000)
        screen.tell.tick()
    assert screen.lines == ["last 10 s: 1,000 done (100 jobs/s), 10 failed"] * 2
    assert screen.tell.busy.is_set()
    screen.clock.advance(10_000)
    screen.tell.tick()
    assert len(screen.lines) == 3
    assert not screen.tell.busy.is_set(), "an idle worker waits for nothing"
    screen.clock.advance(100_000)
    screen.tell.tick()
    assert len(screen.lines) == 3


def test_a_worker_whose_jobs_only_run_says_so_every_ten_seconds(screen: Screen) -> None:
    screen.tell(events.Holding(2))
    for _ in range(25):
        assert screen.tell.busy.is_set()
        screen.clock.advance(1_000)
        screen.tell.tick()
    assert screen.lines == ["last 10 s: 0 done, 2 in flight"] * 2
    screen.tell(events.Settled(done=1))
    screen.tell(events.Holding(1))
    screen.clock.advance(5_000)
    screen.tell.tick()
    assert screen.lines[2:] == ["last 10 s: 1 done, 1 in flight"]


def test_a_worker_that_holds_nothing_any_more_is_silent_and_waits_for_nothing(
    screen: Screen,
) -> None:
    screen.tell(events.Holding(1))
    screen.clock.advance(9_000)
    screen.tell(events.Holding(0))  # as when the lease was lost: there is nothing to settle
    screen.clock.advance(1_000)
    screen.tell.tick()
    assert screen.lines == []
    assert not screen.tell.busy.is_set()


def test_the_last_line_sums_up_everything(screen: Screen) -> None:
    screen.tell(events.Settled(done=10))
    screen.clock.advance(4_000)
    screen.tell(events.Settled(done=10, dead=1, released=2, crashed=1, late=1))
    screen.tell.finish()
    assert screen.lines == [
        (
            "stopped; in all 20 done (5 jobs/s), 1 crashed, 1 dead, 2 released,"
            " 1 settled late in 4.0 s"
        )
    ]


@pytest.mark.parametrize(
    ("took_ms", "summary"),
    [
        (220, "1,001 done (4,550 jobs/s) in 0.22 s"),
        (50, "1,001 done in 0.05 s"),
        (0, "1,001 done in 0 s"),
    ],
)
def test_a_rate_is_true_or_is_not_said(screen: Screen, took_ms: int, summary: str) -> None:
    screen.tell(events.Settled(done=1_001))
    screen.clock.advance(took_ms)
    screen.tell.finish()
    assert screen.lines == [f"stopped; in all {summary}"]


def test_what_is_left_undone_comes_before_the_last_line(screen: Screen) -> None:
    screen.tell.finish(["3 jobs left"])
    assert screen.lines == ["3 jobs left", "stopped; no job was settled"]


def test_text_is_shown_as_it_is_where_it_is_harmless() -> None:
    assert printable("naïve ✓\n\tx") == "naïve ✓\n\tx"
    assert one_line("a\nb") == "a\\nb"
    assert one_line("\ud800") == "\\ud800"
    assert len(one_line("x" * 1_000)) == 200


def test_durations_are_short() -> None:
    shown = [duration(s) for s in (0.0512, 0.67, 3.21, 47, 720, 12_600, 200_000)]
    assert shown == ["0.051 s", "0.67 s", "3.2 s", "47 s", "12 min", "3.5 h", "2.3 d"]


def test_only_the_first_text_that_nobody_reads_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    def never_ready(*sets_and_wait: Any) -> tuple[list[int], list[int], list[int]]:
        waits.append(sets_and_wait[3])
        return [], [], []

    monkeypatch.setattr(select, "select", never_ready)
    write = Lines(1)
    for _ in range(100):
        write("a job failed\n")
        write("its traceback\n")
    assert sum(waits) == pytest.approx(WAIT_SECONDS)


def test_a_reader_that_does_not_read_costs_lines_and_not_the_worker() -> None:
    reader, writer = os.pipe()
    write = Lines(writer)
    sent = "x" * 99 + "\n"
    writing = threading.Thread(target=lambda: [write(sent * 100) for _ in range(12)])
    writing.start()
    writing.join(20)
    assert not writing.is_alive()
    os.set_blocking(reader, False)
    while True:
        try:
            os.read(reader, 1 << 20)
        except BlockingIOError:
            break
    write("now\n")
    assert b"lines lost" in os.read(reader, 1 << 20)
    os.close(reader)
    write("nobody is there\n")
    os.close(writer)
