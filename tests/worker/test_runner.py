"""A real runner process, driven over its link as the pump would."""

import errno
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from dibs.errors import UserError
from dibs.message import Ack, DeadLetter, Error, Lease, Message, Nack, Outcome, Release
from dibs.runners.contract import (
    Await,
    Done,
    Hello,
    ImportFailed,
    Quit,
    Slow,
    Start,
    StopJob,
    Up,
    Withdraw,
)
from dibs.runners.host import NO_THREAD_MS
from dibs.runners.inprocess import InProcessRunner
from dibs.runners.processes import ProcessRunner

T = TypeVar("T")
WAIT_SECONDS = 20.0


class Driver:
    """Sends jobs to a runner, and collects what comes back."""

    def __init__(self, slots: int, app: str = "zoo:app") -> None:
        self.runner = ProcessRunner(app, slots)
        self.frames: list[Up] = []
        self.outcomes: dict[int, Outcome] = {}
        self._next = 0
        self.awaited = 0

    def hello(self) -> Hello:
        return self.until(lambda: next((f for f in self.frames if isinstance(f, Hello)), None))

    def start(self, *calls: tuple[str, bytes], **fields: int) -> list[int]:
        leases = [
            Lease(Message(os.urandom(16), "default", task, args, **fields), 1, 0, 0, 0, 0, 1)
            for task, args in calls
        ]
        # As the pump does: coroutines go over the loop's link.
        kinds = {info.name: info.kind for info in self.hello().tasks}
        awaited = all(kinds.get(task) == "async" for task, _ in calls)
        self.runner.send((Await if awaited else Start)(self._next, leases))
        self.awaited += awaited * len(calls)
        self._next += len(calls)
        return list(range(self._next - len(calls), self._next))

    def run(self, *calls: tuple[str, bytes], **fields: int) -> list[Outcome]:
        serials = self.start(*calls, **fields)
        self.until(lambda: all(serial in self.outcomes for serial in serials))
        return [self.outcomes[serial] for serial in serials]

    def until(self, found: Callable[[], T]) -> T:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (value := found()):
            poll = select.poll()
            for descriptor in self.runner.filenos():
                poll.register(descriptor, select.POLLIN)
            # Short waits, because a condition may be on the black box or a file: neither rings.
            poll.poll(10)
            assert time.monotonic() < deadline, "nothing came back"
            self.runner.flush()
            for frame in self.runner.receive():
                self._hear(frame)
            if self.runner.death() is not None:
                return found()
        return value

    def death(self) -> str:
        deadline = time.monotonic() + WAIT_SECONDS
        while (how := self.runner.death()) is None:
            assert time.monotonic() < deadline
            select.select([self.runner.filenos()[-1]], [], [], 0.1)
        return how

    def _hear(self, frame: Up) -> None:
        self.frames.append(frame)
        if isinstance(frame, Done):
            self.outcomes |= dict.fromkeys(frame.acked, Ack())
            self.outcomes |= dict(frame.others)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(Path(__file__).with_name("zoo.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def driver(folder: Path) -> Iterator[Driver]:
    assert (folder / "zoo.py").exists()
    made = Driver(slots=4)
    try:
        made.hello()
        yield made
    finally:
        made.runner.kill()
        made.death()
        made.runner.close()


def notes(folder: Path) -> list[str]:
    path = folder / "notes.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_it_says_where_the_broker_is_and_which_tasks_there_are(
    driver: Driver, folder: Path
) -> None:
    hello = driver.hello()
    assert hello.url == f"sqlite:///{folder}/zoo.db"
    assert {"quick", "quick_def", "alone"} <= {info.name for info in hello.tasks}
    assert str(folder / "zoo.py") in hello.files


@pytest.mark.parametrize("task", ["quick", "quick_def"])
def test_a_thousand_jobs_at_once_all_come_back(driver: Driver, task: str) -> None:
    outcomes = driver.run(*[(task, b'{"n":%d}' % n) for n in range(1_000)])
    assert outcomes == [Ack()] * 1_000


@pytest.mark.parametrize("task", ["noted", "noted_def"])
def test_a_job_knows_its_attempt_and_fence(driver: Driver, folder: Path, task: str) -> None:
    assert driver.run((task, b'{"n":5}')) == [Ack()]
    assert notes(folder) == ["noted 5 attempt 1 fence 1"]


@pytest.mark.parametrize("task", ["paint", "paint_def"])
def test_a_context_variable_does_not_leak_into_the_next_job(
    driver: Driver, folder: Path, task: str
) -> None:
    driver.run(*[(task, b'{"new":"red"}')] * 20)
    assert notes(folder) == ["was none"] * 20


def test_a_failure_comes_back_as_data_with_its_traceback(driver: Driver) -> None:
    [outcome] = driver.run(("fails", b'{"text":"no such photo"}'))
    assert isinstance(outcome, Nack)
    assert (outcome.error.type, outcome.error.message) == ("ValueError", "no such photo")
    assert "raise ValueError(text)" in outcome.error.traceback
    assert 100 <= outcome.delay_ms <= 2_000


def test_the_last_attempt_is_a_dead_letter(driver: Driver) -> None:
    [outcome] = driver.run(("fails", b'{"text":"no"}'), max_attempts=1)
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.charge) == ("max_attempts", "failure")


@pytest.mark.parametrize("task", ["asks", "asks_def", "asks_apart"])
def test_a_retry_is_a_failure_with_its_own_delay_and_no_traceback(
    driver: Driver, task: str
) -> None:
    [asked, caused, plain] = driver.run(
        *((task, b'{"how":"%s"}' % how) for how in (b"retry", b"retry_from", b"retry_plainly"))
    )
    assert asked == Nack(400, Error("dibs.Retry", "the shop is closed"), "failure")
    cause = "ValueError: invalid literal for int() with base 10: 'many'"
    assert caused == Nack(400, Error("dibs.Retry", cause), "failure")
    assert isinstance(plain, Nack)
    assert plain.error == Error("dibs.Retry", "asked for by the task")
    assert 100 <= plain.delay_ms <= 2_000, "the task's backoff"


def test_a_retry_beyond_the_budget_is_a_dead_letter_with_the_traceback_of_its_cause(
    driver: Driver,
) -> None:
    [outcome] = driver.run(("asks", b'{"how":"retry_from"}'), max_attempts=1)
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.charge) == ("max_attempts", "failure")
    assert 'int("many")' in outcome.error.traceback
    assert "raise Retry" not in outcome.error.traceback


@pytest.mark.parametrize("task", ["asks", "asks_def", "asks_apart"])
def test_a_snooze_gives_the_job_back_and_counts_nothing(driver: Driver, task: str) -> None:
    assert driver.run((task, b'{"how":"snooze"}')) == [Release(400)]


@pytest.mark.parametrize("task", ["asks", "asks_def", "asks_apart"])
def test_a_rejected_job_is_a_dead_letter_that_says_why(driver: Driver, task: str) -> None:
    [asked, caused] = driver.run(
        *((task, b'{"how":"%s"}' % how) for how in (b"reject", b"reject_from"))
    )
    assert asked == DeadLetter("rejected", Error("dibs.Reject", "no such card"), "failure")
    assert isinstance(caused, DeadLetter)
    assert caused.error.message.startswith("no such card (ValueError: invalid literal")
    assert 'int("many")' in caused.error.traceback


@pytest.mark.parametrize("how", ["retry", "snooze", "reject"])
@pytest.mark.parametrize("task", ["asks_too_late", "asks_too_late_def"])
def test_a_run_past_its_timeout_is_a_failure_whatever_it_and_its_task_ask_for(
    driver: Driver, task: str, how: str
) -> None:
    [serial] = driver.start((task, b'{"how":"%s"}' % how.encode()))
    driver.until(lambda: serial in driver.runner.running())
    driver.runner.send(StopJob(serial, "timeout"))
    driver.until(lambda: serial in driver.outcomes)
    outcome = driver.outcomes[serial]
    assert isinstance(outcome, Nack)
    assert outcome.charge == "failure"
    assert outcome.error.message.startswith("ran longer than its timeout")


@pytest.mark.parametrize("task", ["picky", "picky_def"])
def test_only_the_exceptions_that_a_task_names_are_retried(driver: Driver, task: str) -> None:
    kinds = ("ConnectionResetError", "OSError", "FileNotFoundError", "ValueError", "SystemExit")
    outcomes = driver.run(*((task, b'{"kind":"%s"}' % kind.encode()) for kind in kinds))
    assert [
        outcome.error.type for outcome in outcomes if isinstance(outcome, Nack | DeadLetter)
    ] == (list(kinds))
    assert [getattr(outcome, "delay_ms", None) for outcome in outcomes[:2]] == [5_000, 5_000]
    for outcome in outcomes[2:]:
        assert isinstance(outcome, DeadLetter)
        assert (outcome.reason, outcome.charge) == ("not_retried", "failure")


@pytest.mark.parametrize("task", ["leaves", "leaves_async"])
def test_sys_exit_in_a_task_is_a_failure_and_ends_nobody_else(driver: Driver, task: str) -> None:
    [outcome] = driver.run((task, b"{}"))
    assert isinstance(outcome, Nack)
    assert outcome.error.type == "SystemExit"
    assert driver.run(("quick", b'{"n":1}'), ("quick_def", b'{"n":1}')) == [Ack(), Ack()]


def test_a_task_that_cancels_itself_costs_no_slot(driver: Driver) -> None:
    driver.run(*[("cancels_itself", b"{}")] * 20)
    assert driver.run(*[("quick", b'{"n":1}')] * 8) == [Ack()] * 8


@pytest.mark.parametrize(
    "args",
    [
        b"",
        b"{",
        b"[]",
        b'{"n":"many"}',
        b'{"n":1,"m":2}',
        b"{}",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"n":' + b"9" * 5_000 + b"}",
        b"\x80\x04\x95",
    ],
)
def test_a_payload_that_does_not_fit_is_a_dead_letter(driver: Driver, args: bytes) -> None:
    for task in ("quick", "quick_def"):
        [outcome] = driver.run((task, args))
        assert isinstance(outcome, DeadLetter)
        assert (outcome.reason, outcome.charge) == ("undecodable", "nothing")
    assert driver.run(("quick", b'{"n":1}')) == [Ack()]


def test_a_result_comes_back_with_the_time_it_is_kept(driver: Driver) -> None:
    assert driver.run(("returns_text", b'{"n":3}')) == [Ack(b'"xxx"', 3_600_000)]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("returns_object", "what `returns_object` returned cannot be sent as JSON: `lock` has no "),
        ("returns_nan", "what `returns_nan` returned holds nan, which JSON cannot carry"),
        ("returns_much", "`returns_much` returned 1,048,577 bytes, and the limit is 1,048,576: "),
        (
            "returns_snooze",
            "`returns_snooze` returned a `Snooze`, which asks for nothing: raise it",
        ),
    ],
)
def test_a_result_that_cannot_be_meant_or_kept_is_a_dead_letter(
    driver: Driver, task: str, text: str
) -> None:
    """And one text: there is no line of the task's where it happened, and ours say nothing."""
    [outcome] = driver.run((task, b"{}"))
    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.charge) == ("unencodable_result", "failure")
    assert outcome.error.type == "dibs.errors.ResultError"
    assert outcome.error.message.startswith(text)
    assert not outcome.error.traceback


def test_a_result_error_of_the_tasks_own_is_a_failure_like_any_other(driver: Driver) -> None:
    """It read another job's result; its own can be encoded, and the next run may do better."""
    [outcome] = driver.run(("reads_what_does_not_fit", b"{}"))
    assert isinstance(outcome, Nack)
    assert "does not fit its return annotation" in outcome.error.message
    assert "zoo.py" in outcome.error.traceback


def test_a_coroutine_that_nobody_awaits_is_no_success(driver: Driver) -> None:
    (outcome,) = driver.run(("forgets_to_await", b"{}"))
    assert isinstance(outcome, DeadLetter)
    assert "nobody awaits" in outcome.error.message


def test_no_more_jobs_run_than_there_are_slots_of_both_colours_together(
    driver: Driver, folder: Path
) -> None:
    waiting = [("waits_for_file", b'{"name":"go"}'), ("awaits_file", b'{"name":"go"}')] * 4
    serials = driver.start(*waiting)
    driver.until(lambda: len(notes(folder)) >= 4 or None)
    assert len(driver.runner.running()) == 4
    (folder / "go").touch()
    driver.until(lambda: len(driver.outcomes) == 8)
    assert [driver.outcomes[serial] for serial in serials] == [Ack()] * 8
    assert driver.runner.running() == {}


def test_neither_colour_starves_the_other(driver: Driver) -> None:
    calls = [("quick", b'{"n":1}'), ("quick_def", b'{"n":1}')] * 500
    assert driver.run(*calls) == [Ack()] * 1_000


@pytest.mark.parametrize(
    ("many", "one"),
    [
        (("sleeps", b'{"seconds":0}'), ("quick_def", b'{"n":1}')),
        (("works_def", b'{"n":1,"seconds":0.0001}'), ("quick", b'{"n":1}')),
    ],
)
def test_a_job_does_not_wait_for_the_whole_backlog_of_the_other_colour(
    driver: Driver, many: tuple[str, bytes], one: tuple[str, bytes]
) -> None:
    driver.start(*[many] * 40_000)
    driver.until(lambda: len(driver.outcomes) > 100)
    [rare] = driver.start(one)
    driver.until(lambda: rare in driver.outcomes)
    assert len(driver.outcomes) < 30_000


def test_a_coroutine_is_cancelled_when_its_time_is_over(driver: Driver) -> None:
    [serial] = driver.start(("sleeps", b'{"seconds":600}'))
    driver.until(lambda: serial in driver.runner.running())
    driver.runner.send(StopJob(serial, "timeout"))
    driver.until(lambda: serial in driver.outcomes)
    outcome = driver.outcomes[serial]
    assert isinstance(outcome, Nack)
    assert "ran longer than its timeout" in outcome.error.message


def test_a_thread_sees_in_its_context_that_its_time_is_over(driver: Driver, folder: Path) -> None:
    [serial] = driver.start(("waits_for_stop", b"{}"))
    driver.until(lambda: serial in driver.runner.running())
    driver.runner.send(StopJob(serial, "lease_lost"))
    driver.until(lambda: serial in driver.outcomes)
    assert notes(folder) == ["stop reason lease_lost"]


def test_a_slot_survives_a_job_that_swallows_its_cancellation(driver: Driver, folder: Path) -> None:
    serials = driver.start(*[("swallows_cancel", b'{"seconds":600}')] * 4)
    driver.until(lambda: len(driver.runner.running()) == 4)
    for serial in serials:
        driver.runner.send(StopJob(serial, "timeout"))
    driver.until(lambda: len(driver.outcomes) == 4)
    assert notes(folder) == ["stop reason timeout"] * 4
    assert driver.run(*[("quick", b'{"n":1}')] * 8) == [Ack()] * 8


def test_what_has_not_started_can_be_taken_back(driver: Driver, folder: Path) -> None:
    serials = driver.start(*[("awaits_file", b'{"name":"go"}')] * 10)
    driver.until(lambda: len(notes(folder)) == 4 or None)
    driver.runner.send(Withdraw(2, driver.awaited))
    driver.until(lambda: len(driver.outcomes) == 4)
    assert [driver.outcomes.get(serial) for serial in serials[-4:]] == [Release()] * 4
    (folder / "go").touch()
    driver.until(lambda: len(driver.outcomes) == 10)


def test_what_a_blocked_loop_has_not_read_can_be_taken_back_however_much_it_is(
    driver: Driver,
) -> None:
    [blocking] = driver.start(("blocks_loop", b'{"seconds":600}'))
    driver.until(lambda: blocking in driver.runner.running())
    serials = driver.start(*[("paint", b'{"new":"%s"}' % (b"x" * 4_000))] * 300)
    assert driver.runner.unsent(), "more than a socket holds"
    driver.runner.send(Withdraw(0, driver.awaited))
    driver.until(lambda: len(driver.outcomes) == 300)
    assert [driver.outcomes[serial] for serial in serials] == [Release()] * 300
    assert blocking in driver.runner.running()


def test_the_black_box_tells_what_ran_when_the_process_died(driver: Driver) -> None:
    serials = driver.start(*[("sleeps", b'{"seconds":600}')] * 3)
    driver.until(lambda: len(driver.runner.running()) == 3)
    [crash] = driver.start(("segfaults", b"{}"))
    assert driver.death() == "signal SIGSEGV"
    assert set(driver.runner.running()) == {*serials, crash}


def test_a_runner_of_threads_that_is_closed_before_it_begins_ends() -> None:
    for _ in range(50):
        runner = InProcessRunner("memory://", {}, 2)
        runner.close()
        runner._thread.join(WAIT_SECONDS)
        assert not runner._thread.is_alive()


def test_a_process_that_cannot_be_started_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "posix_spawn", refused)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BlockingIOError):
        ProcessRunner("zoo:app", 4)
    assert os.listdir("/proc/self/fd") == before


NO_THREADS = """
import threading
from pathlib import Path
from dibs import App

app = App("memory://starved")
start = threading.Thread.start

def refused(thread):
    if thread.name == "dibs-job" and Path("full").exists():
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = refused

@app.task
def work() -> None: ...
"""


def test_a_job_for_which_no_thread_can_be_started_is_given_back_and_runs_later(
    folder: Path,
) -> None:
    (folder / "starved.py").write_text(NO_THREADS)
    (folder / "full").touch()
    driver = Driver(4, "starved:app")
    try:
        driver.hello()
        assert driver.run(*[("work", b"{}")] * 3) == [Release(NO_THREAD_MS)] * 3
        (folder / "full").unlink()
        assert driver.run(*[("work", b"{}")] * 3) == [Ack()] * 3
    finally:
        driver.runner.kill()
        driver.death()
        driver.runner.close()


def test_programs_that_a_task_starts_can_be_terminated(driver: Driver) -> None:
    assert driver.run(("starts_and_terminates", b"{}")) == [Ack()]


def test_sigint_and_sigterm_are_the_pumps_to_answer(driver: Driver) -> None:
    os.kill(driver.runner.pid, signal.SIGINT)
    os.kill(driver.runner.pid, signal.SIGTERM)
    assert driver.run(("quick", b'{"n":1}')) == [Ack()]


def test_it_exits_when_told_to_and_nothing_runs(driver: Driver) -> None:
    driver.runner.send(Quit())
    assert driver.death() == "exit code 0"


@pytest.mark.parametrize("task", ["sleeps", "waits_for_stop"])
@pytest.mark.usefixtures("folder")
def test_it_ends_at_once_when_the_pump_is_gone(task: str) -> None:
    orphan = Driver(slots=2)
    orphan.hello()
    [serial] = orphan.start((task, b'{"seconds":600}' if task == "sleeps" else b"{}"))
    orphan.until(lambda: serial in orphan.runner.running())
    watch = os.pidfd_open(orphan.runner.pid)
    orphan.runner.close()
    ready, _, _ = select.select([watch], [], [], WAIT_SECONDS)
    os.close(watch)
    assert ready
    assert orphan.runner.death() is not None


def test_a_run_near_its_timeout_is_told_once(driver: Driver) -> None:
    driver.run(*[("sleeps", b'{"seconds":0.2}')] * 6, timeout_ms=220)
    slow = [frame for frame in driver.frames if isinstance(frame, Slow)]
    assert [(frame.task, frame.option, frame.limit_seconds) for frame in slow] == [
        ("sleeps", "timeout", 0.22)
    ]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("1/0", "ZeroDivisionError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("raise SystemExit(3)", "SystemExit"),
        ("app = 5", "leads to no App: the module has `int` there"),
        ("def (", "SyntaxError"),
    ],
)
def test_an_app_that_does_not_import_says_why(folder: Path, source: str, text: str) -> None:
    (folder / "zoo.py").write_text(source)
    driver = Driver(slots=1)
    driver.until(lambda: driver.frames)
    assert driver.death() == "exit code 2"
    [failed] = driver.frames
    assert isinstance(failed, ImportFailed)
    assert text in failed.text
    driver.runner.close()


def test_enqueueing_while_a_worker_imports_the_app_names_the_line(folder: Path) -> None:
    with (folder / "zoo.py").open("a") as file:
        file.write("\nquick.enqueue(1)\n")
    driver = Driver(slots=1)
    driver.until(lambda: driver.frames)
    [failed] = driver.frames
    assert isinstance(failed, ImportFailed)
    assert "zoo.py" in failed.text
    assert UserError.__name__ not in failed.text
    driver.death()
    driver.runner.close()


def test_a_death_is_seen_where_the_system_gives_no_descriptor_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int) -> int:
        raise OSError(errno.ENOSYS, f"no descriptor for {pid}")

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert (folder / "zoo.py").exists()
    made = Driver(slots=1)
    made.hello()
    assert len(made.runner.filenos()) == 1
    made.runner.kill()
    assert made.death() == "signal SIGKILL"
    made.runner.close()


def test_a_death_is_seen_where_the_system_keeps_no_status(folder: Path) -> None:
    assert (folder / "zoo.py").exists()
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        made = Driver(slots=1)
        made.hello()
        assert made.runner.death() is None
        made.runner.kill()
        assert made.death() == "status unknown"
        made.runner.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_job_that_this_runner_alone_does_not_know_goes_back_for_longer_each_time(
    driver: Driver,
) -> None:
    assert driver.run(("of_yesterday", b"{}")) == [Release(1_000)]
