"""Whole workers that are well: how they drain, stop, restart, and live inside another program."""

import asyncio
import itertools
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dibs import App, context
from dibs.brokers.memory import MemoryBroker
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.errors import BrokerBusy, BrokerUnavailable, OptionError
from dibs.events import BrokerBack, BrokerTrouble, LeaseLost
from dibs.message import Message
from dibs.runners.inprocess import in_process_spawner
from dibs.wakepipe import WakePipe
from dibs.worker.service import Plan, Service
from dibs.worker.signals import stop_signals
from tests.unit.steps import each_step
from tests.worker.workers import Scene, alive, catches, children, is_pending, until

# Drain


def test_two_workers_drain_one_file_and_run_each_job_once(scene: Scene) -> None:
    scene.numbers("works", *range(1_000), visibility_timeout_ms=30_000)
    scene.numbers("works_def", *range(1_000, 2_000), visibility_timeout_ms=30_000)
    both = [scene.worker("--drain", "-c", "8", ready=False) for _ in range(2)]
    assert [one.end() for one in both] == [0, 0]
    assert scene.runs("start") == scene.runs("end") == Counter(range(2_000))
    assert {note.attempt for note in scene.notes()} == {1}
    assert scene.counts() == (0, 0, 0, 0)


def test_a_broker_is_told_the_served_tasks_before_their_queues_are_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RabbitMQ has to know their leases before it connects: its heartbeats are a third of them."""
    told: list[object] = []
    monkeypatch.setattr(
        MemoryBroker,
        "expect",
        lambda _, tasks: told.append([(t.visibility_timeout_ms, t.max_lost) for t in tasks]),
    )
    monkeypatch.setattr(MemoryBroker, "declare", lambda _, queues: told.append(queues))
    app = App("memory://told")
    for number, (queue, seconds) in enumerate([("near", 9), ("near", 6), ("far", 3)]):
        options = {"queue": queue, "visibility_timeout": seconds, "max_lost": 10 * seconds}
        app.task(name=f"t{number}", **options)(lambda: None)
    app.worker(queues=["near"]).drain()
    app.close()
    assert told == [[(9_000, 90), (6_000, 60)], ["near"]]


def test_drain_does_not_await_what_is_scheduled(scene: Scene) -> None:
    scene.numbers("once", *range(10))
    scene.numbers("once", 10, due_ms=round(time.time() * 1_000) + 3_600_000)
    scene.drain()
    assert scene.runs("once") == Counter(range(10))
    assert scene.counts() == (0, 1, 0, 0)


@pytest.mark.parametrize("task", ["fans_out", "fans_out_async"])
def test_drain_does_what_its_jobs_enqueue_meanwhile(scene: Scene, task: str) -> None:
    scene.enqueue(task, *({"n": n, "children": 20} for n in range(20)), timeout_ms=60_000)
    scene.drain("-c", "4")
    assert scene.runs("once") == Counter(range(400))
    assert scene.counts() == (0, 0, 0, 0)


def test_drain_of_nothing_ends_at_once(scene: Scene) -> None:
    assert "stopped; no job was" in scene.drain().text


def test_the_first_claim_that_finds_nothing_has_asked_to_be_rung(scene: Scene) -> None:
    history = scene.folder / "history.jsonl"
    scene.record = str(history)
    scene.worker(ready=False)
    until(lambda: history.exists() and history.read_bytes(), "the worker claims")
    assert list((scene.folder / "zoo.db-bells").glob("default=*"))


# Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_lets_the_running_finish_and_returns_the_unstarted(
    scene: Scene, number: int
) -> None:
    scene.numbers("held", 0)
    scene.numbers("held_def", 1)
    scene.enqueue("works", *({"n": n, "seconds": 0.002} for n in range(2, 4_000)))
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_notes("end", 100)
    worker.send_all(number)  # as a terminal does, runners too
    worker.line("stopping: ")
    stopped_at = time.monotonic()
    scene.numbers("once", 4_000)
    until(lambda: scene.counts()[2] == 2, "the unstarted are back")
    scene.touch("go")
    assert worker.end(5) == 0
    assert time.monotonic() < stopped_at + 4
    assert {0, 1} <= set(scene.runs("end"))
    assert not scene.notes("once"), "nothing is claimed after the stop"
    ready = scene.counts()[0]
    assert scene.counts() == (ready, 0, 0, 0)
    assert ready == 4_001 - len(scene.notes("end"))
    scene.drain()
    assert scene.runs("start") == scene.runs("end") == Counter(range(4_000))
    assert {note.attempt for note in scene.notes()} == {1}, "nothing was counted"


def test_what_was_given_ahead_when_the_stop_came_is_returned_uncounted(scene: Scene) -> None:
    scene.numbers("once", *range(2_000))
    # In the middle of the stream, when much is given ahead: jobs of the rest have begun.
    scene.enqueue("stops_the_worker", {"beside": 3})
    scene.numbers("held", *range(2_000, 3_000))
    worker = scene.worker("-c", "4", "--processes", "1")
    worker.line("stopping: ")

    def returned() -> bool:
        """Whether all but the begun are back: one may begin after the line, before it is heard."""
        begun = len(scene.notes("start"))
        return scene.counts() == (1_000 - begun, 0, begun, 0)

    until(returned, "what had not begun is back")
    started = len(scene.notes("start"))
    assert started <= 4
    scene.touch("go")
    assert worker.end(5) == 0, worker.text
    scene.until_counts(ready=1_000 - started)
    scene.drain()
    assert scene.runs("end") == Counter(range(2_000, 3_000))
    assert {note.attempt for note in scene.notes("start")} == {1}
    assert 2 in {note.fence for note in scene.notes("start")}, "some had been given ahead"


@pytest.mark.parametrize("task", ["held", "held_def", "apart_for_ever"])
def test_what_outlasts_the_shutdown_timeout_is_killed_and_released(scene: Scene, task: str) -> None:
    scene.numbers(task, 1, visibility_timeout_ms=30_000)
    worker = scene.worker("-c", "2", "--processes", "1", "--shutdown-timeout", "0.5")
    [note] = scene.until_notes("apart" if task == "apart_for_ever" else "start", 1)
    runners = children(worker.pid)
    stopped_at = time.monotonic()
    assert worker.stop(5) == 1
    assert time.monotonic() < stopped_at + 2.5
    assert "1 released" in worker.text
    assert note.pid in runners
    assert not any(map(alive, runners))
    assert scene.counts() == (1, 0, 0, 0), "at once, not at the end of its lease"
    scene.touch("go")
    second = scene.worker()
    again = scene.until_notes(note.what, 2)[-1]
    assert (again.attempt, again.fence) == (1, 2)
    second.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_releases_and_ends_within_two_seconds(scene: Scene, number: int) -> None:
    scene.numbers("held_def", 1, 2, visibility_timeout_ms=30_000)
    worker = scene.worker("-c", "2")
    scene.until_notes("start", 2)
    worker.send(number)
    worker.line("stopping: 2 jobs held here")
    asked_at = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.end(5) == 1
    assert time.monotonic() < asked_at + 2
    assert scene.counts() == (2, 0, 0, 0)


def test_a_hangup_that_is_ignored_as_by_nohup_stays_ignored(scene: Scene) -> None:
    command = f'trap "" HUP; exec {sys.executable} -m dibs worker zoo:app -c 2'
    worker = scene.start(["sh", "-c", command])
    worker.line(r"^  slots ")
    worker.send_all(signal.SIGHUP)
    scene.numbers("once", 1)
    scene.until_notes("once", 1)
    assert worker.stop() == 0


def test_a_stop_while_the_app_is_imported_ends_in_order(scene: Scene) -> None:
    (scene.folder / "slow.py").write_text(
        "import os, signal\nos.symlink(str(os.getpid()), 'importing')\nsignal.pause()\n"
    )
    importing = scene.folder / "importing"
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        importing.unlink(missing_ok=True)
        worker = scene.worker("--processes", "1", app="slow:app", ready=False)
        until(importing.is_symlink, "the import")
        runner = int(os.readlink(importing))
        worker.send_all(number)
        assert worker.end(3) == code
        assert "Traceback" not in worker.text
        until(lambda pid=runner: not alive(pid), "the runner's end", 2)


def test_a_stop_in_the_midst_of_an_import_is_not_lost(scene: Scene) -> None:
    """What a signal's handler raises there is swallowed, as in any callback of a weak reference."""
    (scene.folder / "sitecustomize.py").write_text(
        "import os, signal, sys, weakref\n"
        "class Importing:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'dibs.cli.terminal':\n"
        "            gone = weakref.ref(Importing(), stop)\n"
        "def stop(gone):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Importing())\n"
    )
    there = f"PYTHONPATH={scene.folder}"
    worker = scene.start(["env", there, sys.executable, "-m", "dibs", "worker", "zoo:app"])
    assert worker.end() == 0
    assert "slots" not in worker.text, "it went on as if nobody had asked"


def test_a_stop_while_a_broker_that_does_not_answer_is_opened_ends_as_the_signal_says(
    scene: Scene,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
            worker = scene.worker("--url", url, ready=False)
            connection, _ = silent.accept()
            worker.send(number)
            assert worker.end() == code
            assert worker.text == ""
            connection.close()


def test_a_stop_before_a_broker_that_cannot_be_opened_is_no_mistake(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as broken:
        url = f"redis://127.0.0.1:{broken.getsockname()[1]}/0"
        worker = scene.worker("--url", url, ready=False)
        connection, _ = broken.accept()
        worker.send(signal.SIGTERM)
        until(lambda: not is_pending(worker.pid, signal.SIGTERM), "it was heard")
    connection.close()
    assert worker.end() == 0
    assert worker.text == ""


def test_a_stop_wins_over_a_change_of_the_code(scene: Scene) -> None:
    scene.enqueue("waits_for_file", {"name": "go"})
    worker = scene.worker("--reload")
    until(lambda: scene.counts()[2] == 1, "the job is in flight")
    scene.touch("zoo.py")
    worker.line("stopping")
    worker.send(signal.SIGTERM)
    scene.touch("go")
    assert worker.end() == 0
    assert "starting anew" not in worker.text


def test_a_signal_wakes_the_wait_that_its_handler_came_too_early_for() -> None:
    wake = WakePipe()
    with stop_signals(lambda _: None, wake.writer):
        os.kill(os.getpid(), signal.SIGTERM)
        assert select.select([wake], [], [], 0)[0]
    assert signal.set_wakeup_fd(-1) == -1
    wake.close()


def test_interrupted_at_any_step_the_hearing_of_signals_leaves_none_taken() -> None:
    wake = WakePipe()
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(kind) for kind in kinds]

    def may() -> bool:
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler

    try:
        for interrupt in each_step("worker/signals.py", may):
            with interrupt, stop_signals(lambda _: None, wake.writer):
                pass
            assert [signal.getsignal(kind) for kind in kinds] == handlers
            assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGINT, before)
    wake.close()


def test_a_worker_in_an_event_loops_thread_takes_none_of_the_loops_signals() -> None:
    app = App("memory://loops")

    @app.task
    def sends() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    async def drains() -> None:
        came = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        sends.enqueue()
        assert app.worker().drain().done == 1
        async with asyncio.timeout(30):
            await came.wait()
        loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(drains())
    app.close()


def test_a_stop_at_any_moment_of_the_start_ends_in_order(scene: Scene) -> None:
    scene.numbers("works", *range(500))
    began = time.monotonic()
    worker = scene.worker("--processes", "1")
    took = time.monotonic() - began
    assert worker.stop(5) == 0
    for share in range(1, 8):
        worker = scene.worker("--processes", "1", ready=False)
        born = time.monotonic()
        until(lambda at=born + took * share / 7: time.monotonic() >= at, "the moment")
        # Before the interpreter has come as far as our first line, a signal is the kernel's.
        known = catches(worker.pid, signal.SIGTERM)
        assert worker.stop(5) in ((0,) if known else (0, -signal.SIGTERM)), worker.text
        assert "Traceback" not in worker.text
    worker = scene.worker("--processes", "1", ready=False)
    until(lambda: catches(worker.pid, signal.SIGTERM), "it knows the signal")
    assert worker.stop(5) == 0
    scene.drain()
    assert set(scene.runs("end")) == set(range(500))
    assert {note.attempt for note in scene.notes()} == {1}


def test_rolling_restarts_burn_no_attempt_and_lose_nothing(scene: Scene) -> None:
    jobs = range(3_000)
    scene.enqueue("works", *({"n": n, "seconds": 0.005} for n in jobs[:2_000]))
    scene.enqueue("works_def", *({"n": n, "seconds": 0.005} for n in jobs[2_000:]))
    old = scene.worker("-c", "4", "--processes", "1")
    for _ in range(10):
        new = scene.worker("-c", "4", "--processes", "1")
        done = len(scene.notes("end"))
        scene.until_notes("end", min(done + 20, len(jobs)))
        assert old.stop(5) == 0
        old = new
    assert old.stop(5) == 0
    assert scene.counts()[2] == 0, "nothing is left in flight"
    scene.drain()
    assert scene.counts() == (0, 0, 0, 0)
    assert scene.runs("start") == scene.runs("end") == Counter(jobs)
    assert {note.attempt for note in scene.notes()} == {1}


# Jobs that this worker cannot run


def test_a_task_that_is_unknown_here_waits_for_a_worker_that_knows_it(scene: Scene) -> None:
    scene.numbers("newer", *range(5))
    scene.numbers("once", 7)
    old = scene.worker()
    old.line("has jobs of task newer, which this app lacks")
    scene.until_counts(scheduled=5)
    scene.until_notes("once", 1)
    assert old.stop() == 0
    zoo = (scene.folder / "zoo.py").read_text()
    newer = "\n\n@app.task\ndef newer(n: int) -> None:\n    note_run('newer', n)\n"
    (scene.folder / "newer.py").write_text(zoo + newer)
    scene.worker(app="newer:app")
    scene.until_notes("newer", 5)
    scene.until_counts()
    assert {note.attempt for note in scene.notes("newer")} == {1}, "nothing was counted"
    assert old.count("task newer") == 1, "told once for the five"


def test_what_cannot_be_read_is_a_dead_letter_and_the_worker_goes_on(scene: Scene) -> None:
    garbage = b'{"n": \x80\x04garbage'
    scene.publish(
        Message(os.urandom(16), "default", "once", garbage),
        Message(os.urandom(16), "default", "once", b'{"n": "many"}'),
        Message(os.urandom(16), "default", "once", b'{"n": 1}', version=99),
    )
    worker = scene.worker()
    scene.until_counts(dead=3)
    scene.numbers("once", 5)
    scene.until_notes("once", 1)
    assert worker.stop() == 0
    dead = {letter.message.args: letter for letter in scene.dead()}
    assert [letter.reason for letter in dead.values()].count("undecodable") == 2
    assert dead[b'{"n": 1}'].reason == "unknown_version"
    assert "a newer dibs wrote it" in dead[b'{"n": 1}'].error.message
    assert garbage in dead, "with its bytes"
    assert not any(one.failures + one.crashes + one.lost for one in dead.values())


# What a task says of its job, and what it is told


@pytest.mark.parametrize("task", ["asks", "asks_def", "asks_apart"])
def test_what_a_task_asks_for_is_what_becomes_of_its_job(scene: Scene, task: str) -> None:
    hows = ("retry", "retry_from", "snooze", "reject")
    scene.enqueue(task, *({"how": how} for how in hows), visibility_timeout_ms=30_000)
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_counts(dead=1)
    assert worker.stop() == 0
    for how, attempt in (("retry", 2), ("retry_from", 2), ("snooze", 1)):
        first, second = scene.notes(how)
        assert (first.attempt, second.attempt) == (1, attempt), how
        assert second.at - first.at >= 0.399, how
    [letter] = scene.dead()
    assert (letter.reason, letter.failures, letter.error.message) == ("rejected", 1, "no such card")
    assert len(scene.notes("reject")) == 1
    assert "Traceback" not in worker.text
    assert worker.count("retry in 0.4 s .failure 1 of 5.") == 2
    assert worker.count("dibs.Retry: the shop is closed") == 1
    assert worker.count("dibs.Retry: ValueError: invalid literal") == 1
    assert worker.count("dead letter: rejected\n    dibs.Reject: no such card\n") == 1
    assert worker.count("failed .attempt 1.") == 3, "a snooze is no failure"
    assert re.search(r"3 done.*, 2 failed, 1 dead, \d+ released", worker.text.splitlines()[-1])


@pytest.mark.parametrize("task", ["told", "told_def", "told_apart"])
def test_a_run_past_its_timeout_is_told_at_once(scene: Scene, task: str) -> None:
    worker = scene.worker("-c", "2", "--processes", "1")
    asked_at = time.monotonic()
    scene.numbers(task, 1, timeout_ms=500, max_attempts=1, visibility_timeout_ms=30_000)
    scene.until_counts(dead=1)
    [start], [deadline] = scene.notes("start"), scene.notes("deadline")
    [told] = scene.notes("timeout")
    # It counts from before the first line, of which nobody knows how long that was.
    assert asked_at + 0.5 <= deadline.at <= start.at + 0.5
    assert 0 <= told.at - deadline.at < 1
    assert "replaced" not in worker.text, "it ended by itself"
    assert worker.stop() == 0


@pytest.mark.parametrize("task", ["told", "told_def", "told_apart"])
def test_rule_28_a_run_whose_lease_is_lost_is_told_within_a_heartbeat(
    scene: Scene, task: str
) -> None:
    scene.numbers(task, 1)
    holder = scene.worker("-c", "2", "--processes", "1")
    scene.until_notes("start", 1)
    holder.send(signal.SIGSTOP)  # the pump alone: its runners go on
    heir = scene.worker("-c", "2", "--processes", "1")
    [first, second] = scene.until_notes("start", 2)
    assert (first.pump, second.pump, second.fence) == (holder.pid, heir.pid, 2)
    went_on_at = time.monotonic()
    holder.send(signal.SIGCONT)
    [told] = scene.until_notes("lease_lost", 1)
    assert (told.pump, told.fence) == (holder.pid, 1)
    assert told.at - went_on_at < 1.0
    assert scene.counts() == (0, 0, 1, 0), "the heir's, untouched"
    assert holder.stop() == 0
    heir.kill()


# Inside another program

_names = itertools.count()


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    memory = f"memory://worker-{next(_names)}"
    return App(memory if request.param == "memory" else f"sqlite:///{tmp_path}/embedded.db")


def test_a_worker_of_no_queue_is_refused(app: App) -> None:
    with pytest.raises(OptionError, match="`queues` is empty: name one"):
        app.worker(queues=[])


def test_a_worker_whose_broker_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    worker = App(f"sqlite:///{tmp_path}/missing/queue.db").worker()
    with pytest.raises(BrokerUnavailable):
        worker.drain()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            worker.drain()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_embedded_worker_drains_in_a_test(app: App) -> None:
    seen: list[int] = []

    @app.task
    def add(n: int) -> None:
        seen.append(n)

    @app.task
    async def add_async(n: int) -> None:
        seen.append(n)

    @app.task(max_attempts=1)
    def fails() -> None:
        raise ValueError("no")

    app.enqueue_many([t.bind(n) for n in range(50) for t in (add, add_async)])
    fails.enqueue()
    settled = app.worker(concurrency=4).drain()
    assert (settled.done, settled.dead, settled.failed) == (100, 1, 0)
    assert Counter(seen) == Counter([*range(50), *range(50)])
    assert app.worker().drain().done == 0
    app.close()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"concurrency": 0}, "`concurrency` is 0: it is a number of jobs"),
        ({"concurrency": 1.5}, "`concurrency` is 1.5: it is a number of jobs"),
        ({"concurrency": "3"}, "`concurrency` is '3': it is a number of jobs"),
        ({"queues": "photos"}, "`queues` is 'photos': it is a list of names, as in ['photos']"),
        ({"queues": [5]}, "`queues` is [5]: it is a list of names"),
        ({"queues": 5}, "`queues` is 5: it is a list of names"),
        ({"queues": []}, "`queues` is empty"),
        ({"shutdown_timeout": -1}, "`shutdown_timeout` is -1"),
        ({"shutdown_timeout": float("nan")}, "`shutdown_timeout` is nan"),
        ({"shutdown_timeout": "3"}, "`shutdown_timeout` is '3': give seconds"),
    ],
)
def test_an_embedded_worker_is_made_of_what_it_can_be(app: App, given: Any, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        app.worker(**given)
    assert str(caught.value).startswith(text)


def test_an_embedded_worker_runs_in_a_thread_until_it_is_stopped(app: App) -> None:
    done = threading.Event()

    @app.task
    def finish() -> None:
        done.set()

    before = set(threading.enumerate())
    worker = app.worker(concurrency=2)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run()))
    thread.start()
    finish.enqueue()
    assert done.wait(10)
    worker.stop()
    thread.join(5)
    app.close()
    assert codes == [0]
    until(lambda: set(threading.enumerate()) <= before, "no thread is left")


def test_a_stop_that_comes_before_the_run_is_not_lost(app: App) -> None:
    worker = app.worker()
    worker.stop()
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_an_embedded_worker_lives_in_the_lifespan_of_an_event_loop(app: App) -> None:
    answers: list[int] = []

    @app.task
    async def answer(n: int) -> None:
        answers.append(n)
        if len(answers) == 20:
            over.set()

    over = threading.Event()

    async def serve() -> int:
        worker = app.worker(concurrency=4)
        running = asyncio.create_task(asyncio.to_thread(worker.run))
        for n in range(20):
            await answer.aenqueue(n)
        assert await asyncio.to_thread(over.wait, 10)
        worker.stop()
        return await asyncio.wait_for(running, 5)

    assert asyncio.run(asyncio.wait_for(serve(), 20)) == 0
    assert sorted(answers) == list(range(20))
    app.close()


def test_an_embedded_worker_keeps_the_lease_of_a_job_that_waits(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/embedded.db")
    fences: list[int] = []
    events: list[object] = []

    @app.task(visibility_timeout=1)
    def waits() -> None:
        fences.append(context().fence)
        threading.Event().wait(2.2)

    waits.enqueue()
    settled = app.worker(concurrency=2, observe=events.append).drain()
    assert (settled.done, settled.late, fences) == (1, 0, [1])
    assert not any(isinstance(event, LeaseLost) for event in events)
    app.close()


def test_a_worker_waits_for_a_broker_that_goes_away_before_its_queues_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does for one that goes away later."""
    app = App("memory://away")
    events: list[object] = []
    away = [BrokerUnavailable("the server is restarting"), BrokerBusy("somebody holds it")]
    declare = MemoryBroker.declare

    @app.task
    def add(n: int) -> None: ...

    add.enqueue(1)

    def declaring(broker: MemoryBroker, queues: Sequence[str]) -> None:
        if away:
            raise away.pop()
        declare(broker, queues)

    monkeypatch.setattr(MemoryBroker, "declare", declaring)
    assert app.worker(observe=events.append).drain().done == 1
    assert [type(event) for event in events[:3]] == [BrokerTrouble, BrokerTrouble, BrokerBack]
    app.close()


def test_a_bell_that_cannot_be_hung_up_is_waited_for_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App("memory://away")
    events: list[object] = []
    away = [BrokerUnavailable("the server is restarting")]
    bell = MemoryBroker.bell

    def hanging_up(broker: MemoryBroker) -> int:
        if away:
            raise away.pop()
        return bell(broker)

    monkeypatch.setattr(MemoryBroker, "bell", hanging_up)
    app.worker(observe=events.append).drain()
    assert [type(event) for event in events[:2]] == [BrokerTrouble, BrokerBack]
    app.close()


def test_a_stop_ends_the_wait_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def declaring(*_: object) -> None:
        worker.stop()
        raise BrokerUnavailable("the server is away")

    monkeypatch.setattr(MemoryBroker, "declare", declaring)
    worker = App("memory://away").worker(observe=lambda _: None)
    assert worker.run() == 0


def test_a_changed_file_ends_the_wait_for_a_broker_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The change may be that of a wrong URL."""

    def declaring(*_: object) -> None:
        raise BrokerUnavailable("the server is away")

    monkeypatch.setattr(MemoryBroker, "declare", declaring)
    app = App("memory://away")
    broker = open_broker(app.url, worker_id=b"worker", clock=SystemClock())
    service = Service(in_process_spawner(app.url, app.tasks), Plan(), lambda _: None)
    looks = iter((False, False, True))
    service.start()
    assert service.run(broker, service.wait_for_app(), changed=looks.__next__) == 0
    assert list(looks) == []
    service.close()
    broker.close()
