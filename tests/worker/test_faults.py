"""Whole workers under faults: killed, stopped, crashed and held up by the tasks they run."""

import ctypes
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from dibs.errors import BrokerFull
from dibs.message import Message
from tests.worker.workers import Note, Scene, age_seconds, alive, children, cpu_seconds, until

EXPIRY_SECONDS = 1.0
"""The visibility timeout of the scene's jobs."""


@contextmanager
def watched(*pids: int) -> Iterator[list[int]]:
    """Descriptors that become readable when the processes end."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def gone_within(descriptors: list[int], seconds: float) -> bool:
    """Wait for the end of all processes watched."""
    deadline = time.monotonic() + seconds
    return all(
        select.select([one], [], [], max(0.0, deadline - time.monotonic()))[0]
        for one in descriptors
    )


# Death of a worker, or of a part of it


def test_the_jobs_of_a_killed_worker_come_back_after_the_visibility_timeout(scene: Scene) -> None:
    scene.numbers("held", 0, 1)
    scene.numbers("held_def", 2, 3)
    victim = scene.worker("-c", "4", "--processes", "2")
    scene.until_notes("start", 4)
    heir = scene.worker("-c", "4", "--processes", "2")
    killed_at = victim.kill()
    again = scene.until_notes("start", 8)[4:]
    assert {note.n for note in again} == {0, 1, 2, 3}
    assert {(note.attempt, note.fence) for note in again} == {(2, 2)}, "lost is counted"
    assert {note.pump for note in again} == {heir.pid}
    # The last heartbeat was up to a third of the timeout before the kill.
    assert min(note.at for note in again) > killed_at + EXPIRY_SECONDS / 2
    assert max(note.at for note in again) < killed_at + EXPIRY_SECONDS + 1
    scene.touch("go")
    scene.until_counts()
    assert scene.runs("end") == Counter(range(4)), "the killed ones had no effect"
    assert heir.stop() == 0


def test_runners_end_at_once_when_their_pump_is_killed(scene: Scene) -> None:
    scene.numbers("held", 0, 1)
    scene.numbers("held_def", 2, 3)
    worker = scene.worker("-c", "4", "--processes", "2")
    scene.until_notes("start", 4)
    with watched(*children(worker.pid)) as ends:
        worker.send(signal.SIGKILL)
        assert gone_within(ends, 1.0)
    scene.touch("go")
    heir = scene.worker("-c", "4", "--processes", "2")
    scene.until_counts()
    assert scene.runs("end") == Counter(range(4)), "no orphan ran on beside the heir"
    assert heir.stop() == 0


def test_runners_that_hold_the_interpreter_end_with_their_pump_too(scene: Scene) -> None:
    scene.numbers("held", 0, visibility_timeout_ms=30_000)
    scene.numbers("held_def", 1, 2, visibility_timeout_ms=30_000)
    worker = scene.worker("-c", "5", "--processes", "2")
    scene.until_notes("start", 3)
    runners = children(worker.pid)
    assert len(runners) == 2
    # A runner asks the kernel for its end with the pump's; it does so after its first second.
    until(lambda: min(map(age_seconds, runners)) > 2, "the wish is with the kernel")
    for _ in runners:
        scene.enqueue("holds_interpreter", {"seconds": 20.0}, visibility_timeout_ms=30_000)
    scene.until_notes("start", 4)
    with watched(*runners) as ends:
        worker.send(signal.SIGKILL)
        assert gone_within(ends, 10.0), "long before they would give the interpreter away"


def test_a_killed_runner_is_replaced_and_its_jobs_come_back_at_once(scene: Scene) -> None:
    scene.numbers("held", 0, visibility_timeout_ms=30_000)
    scene.numbers("held_def", 1, visibility_timeout_ms=30_000)
    worker = scene.worker("-c", "4", "--processes", "1")
    first = scene.until_notes("start", 2)
    [runner] = {note.pid for note in first}
    os.kill(runner, signal.SIGKILL)
    killed_at = time.monotonic()
    again = scene.until_notes("start", 4)[2:]
    assert max(note.at for note in again) < killed_at + 5, "well before the visibility timeout"
    assert {(note.attempt, note.fence) for note in again} == {(2, 2)}, "a crash is counted"
    assert {note.slots for note in again} == {1}, "each alone in a process"
    assert worker.count(r"signal SIGKILL\): 2 running jobs charged a crash, 0 queued") == 1
    scene.numbers("once", *range(10))
    once = scene.until_notes("once", 10)
    assert {(note.slots, note.attempt) for note in once} == {(4, 1)}, "replaced"
    scene.touch("go")
    scene.until_counts()
    assert worker.stop() == 0


def test_what_a_dead_runner_had_only_queued_is_not_charged(scene: Scene) -> None:
    for thousand in range(4):
        scene.numbers("once", *range(thousand * 1_000, thousand * 1_000 + 1_000))
        scene.enqueue("segfaults", max_crashes=1)
    worker = scene.drain("-c", "4", "--processes", "1")
    assert scene.counts() == (0, 0, 0, 4)
    queued = [int(count) for count in re.findall(r"(\d+) queued jobs? given back", worker.text)]
    assert len(queued) == 4
    assert max(queued) > 4, "it had jobs ahead, or this proves nothing"
    assert set(scene.runs("once")) == set(range(4_000))
    charged = [note for note in scene.notes("once") if note.attempt > 1]
    assert len(charged) <= 4 * 3, "at most what the other slots were at"


def test_poison_dies_of_its_budget_and_charges_no_neighbour_twice(scene: Scene) -> None:
    poisons = ["segfault", "exit", "abort"]
    healthy = range(60)
    scene.enqueue("works", *({"n": n, "seconds": 0.05} for n in healthy[:20]))
    scene.enqueue(
        "crashes", *({"n": n, "how": how} for n, how in enumerate(poisons)), max_crashes=2
    )
    scene.enqueue("works_def", *({"n": n, "seconds": 0.05} for n in healthy[20:]))
    worker = scene.drain("-c", "8", "--processes", "2")
    assert scene.counts() == (0, 0, 0, 3)
    for letter in scene.dead():
        assert (letter.reason, letter.crashes) == ("max_crashes", 2)
        assert (letter.failures, letter.lost) == (0, 0)
    for how in poisons:
        # One may die of another poison's crash before its first line, and is charged for it too.
        assert len(scene.notes(how)) in (1, 2), "it ran max_crashes times at most"
    ends, starts = scene.runs("end"), scene.notes("start")
    assert set(ends) == set(healthy)
    # What ended in a process that died before it had told of it is charged, and runs once more.
    assert {n for n, often in ends.items() if often > 1} <= {n.n for n in starts if n.attempt == 2}
    assert max(ends.values()) <= 2
    assert max(note.attempt for note in starts) <= 2
    for how in ("signal SIGSEGV", "exit code 7", "signal SIGABRT"):
        assert worker.saw(f"died .{how}")


def test_a_job_that_kills_its_worker_is_counted_lost_until_it_is_dead(scene: Scene) -> None:
    scene.enqueue("crashes", {"n": 1, "how": "pump"}, max_lost=3)
    scene.numbers("works", *range(50))
    for _ in range(3):
        worker = scene.worker("-c", "2", "--processes", "1", ready=False)
        assert worker.end() == -signal.SIGKILL
    last = scene.worker("-c", "2", "--processes", "1")
    scene.until_counts(dead=1)
    assert last.stop() == 0
    [letter] = scene.dead()
    assert (letter.reason, letter.lost, letter.crashes) == ("max_lost", 3, 0)
    runs = scene.notes("pump")
    assert [note.attempt for note in runs] == [1, 2, 3]
    assert [note.slots for note in runs] == [2, 2, 1], "alone once it is a suspect"
    assert set(scene.runs("end")) == set(range(50)), "the neighbours are done"


def test_random_kills_lose_no_job_and_let_no_two_runs_overlap(scene: Scene) -> None:
    chance = random.Random(20_151_122)
    jobs = range(700)
    scene.enqueue("works", *({"n": n, "seconds": 0.02} for n in jobs[:350]))
    scene.enqueue("works_def", *({"n": n, "seconds": 0.02} for n in jobs[350:]))
    arguments = ("-c", "3", "--processes", "1")
    workers = [scene.worker(*arguments) for _ in range(3)]
    killed: dict[int, float] = {}
    for _ in range(8):
        progress = len(scene.notes("start")) + chance.randrange(20, 100)
        until(lambda: len(scene.notes("start")) >= progress or scene.counts() == (0, 0, 0, 0), "")  # noqa: B023
        victim = workers.pop(chance.randrange(len(workers)))
        killed[victim.pid] = victim.kill()
        workers.append(scene.worker(*arguments, ready=False))
    scene.until_counts()
    for worker in workers:
        worker.line(r"^  slots ")  # a stop before that ends a worker that has not begun
        assert worker.stop() == 0
    assert set(scene.runs("end")) == set(jobs), "nothing is lost"
    ended = {(note.n, note.fence): note.at for note in scene.notes("end")}
    for n in jobs:
        runs = sorted((note for note in scene.notes("start") if note.n == n), key=lambda r: r.at)
        for earlier, later in pairwise(runs):
            assert later.fence > earlier.fence
            over = ended.get((n, earlier.fence)) or killed.get(earlier.pump)
            assert over is not None, "it neither ended nor was its worker killed"
            assert later.at > over


def test_a_worker_that_was_stopped_for_long_has_its_late_acks_refused(scene: Scene) -> None:
    scene.numbers("held_def", *range(3))
    sleeper = scene.worker("-c", "3", "--processes", "1")
    scene.until_notes("start", 3)
    sleeper.send_all(signal.SIGSTOP)
    stopped_at = time.monotonic()
    other = scene.worker("-c", "3", "--processes", "1")
    scene.until_notes("start", 6)
    scene.touch("go")
    scene.until_counts()
    until(lambda: time.monotonic() > stopped_at + 3 * EXPIRY_SECONDS, "three visibility timeouts")
    sleeper.send_all(signal.SIGCONT)
    scene.until_notes("end", 6)
    until(lambda: sleeper.count("the lease is lost") == 3, "told of each")
    assert other.stop() == 0
    scene.numbers("once", 5)
    assert [note.pump for note in scene.until_notes("once", 1)] == [sleeper.pid], "it goes on"
    assert sleeper.stop() == 0
    assert "1 done" in sleeper.text.splitlines()[-1], "none of the late ones counts as done"
    assert scene.counts() == (0, 0, 0, 0)
    fences = {note.n: [] for note in scene.notes("start")}  # type: dict[int, list[int]]
    for note in scene.notes("end"):
        fences[note.n].append(note.fence)
    assert sorted(map(sorted, fences.values())) == [[1, 2]] * 3, "each ran twice, told by its fence"


def test_a_process_stopped_inside_a_commit_is_named_and_waited_out(scene: Scene) -> None:
    scene.numbers("held", *range(3))
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_notes("start", 3)
    with scene.stopped_inside_a_commit() as holder:
        scene.touch("go")
        scene.until_notes("end", 3)
        used = cpu_seconds(worker.pid)
        line = worker.line(f"BrokerBusy: process {holder.pid} has held zoo.db for ", 15)
        assert "stopped inside a commit" in line
        assert cpu_seconds(worker.pid) - used < 0.3, "it waits, it does not spin"
    went_on_at = time.monotonic()
    scene.numbers("once", 7)
    scene.until_notes("once", 1)
    scene.until_counts()
    assert time.monotonic() < went_on_at + 10
    worker.line("the broker works again")
    assert worker.stop() == 0
    assert scene.runs("end") == Counter(range(3))
    assert scene.dead() == []


@pytest.mark.parametrize(("visibility_timeout_ms", "answers"), [(1_000, True), (30_000, False)])
def test_a_worker_told_to_stop_ends_in_time_though_another_is_stopped_inside_a_commit(
    scene: Scene, visibility_timeout_ms: int, answers: bool
) -> None:
    scene.numbers("held", *range(3), visibility_timeout_ms=visibility_timeout_ms)
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_notes("start", 3)
    with scene.stopped_inside_a_commit():
        worker.send(signal.SIGTERM)
        worker.line("stop again to end at once")
        asked_at = time.monotonic()
        worker.send(signal.SIGTERM)
        assert worker.end() == 1
        assert time.monotonic() - asked_at < 2
    assert ("the broker does not answer" in worker.text) is not answers
    assert sum(scene.counts()) == 3, "what it could not give back comes back by itself"


# Held up by a task


def test_a_blocked_loop_and_a_held_interpreter_keep_their_leases(scene: Scene) -> None:
    scene.enqueue("blocks_loop", {"seconds": 3.0})
    scene.enqueue("holds_interpreter", {"seconds": 3.0})
    holder = scene.worker("-c", "2", "--processes", "2")
    scene.until_notes("start", 2)
    other = scene.worker("-c", "2", "--processes", "1")
    scene.until_counts()
    assert [(note.fence, note.pump) for note in scene.notes()] == [(1, holder.pid)] * 4
    assert "lost" not in holder.text
    assert [holder.stop(), other.stop()] == [0, 0]


def test_a_hung_thread_is_failed_and_its_process_replaced(scene: Scene) -> None:
    scene.numbers("held_def", 1)
    scene.numbers("held", 2)
    scene.numbers("hangs", 3, timeout_ms=500, max_attempts=1)
    worker = scene.worker("-c", "3", "--processes", "1")
    [hung] = [note for note in scene.until_notes("start", 3) if note.n == 3]
    scene.until_counts(in_flight=2, dead=1)
    assert 0.5 <= time.monotonic() - hung.at < 3.5
    [letter] = scene.dead()
    assert (letter.reason, letter.failures, letter.crashes) == ("max_attempts", 1, 0)
    assert "ran longer than its timeout of 0.5 s" in letter.error.message
    worker.line(f"runner process {hung.pid} takes no more jobs")
    scene.numbers("once", *range(3))
    scene.numbers("once_def", *range(3))
    assert hung.pid not in {note.pid for note in scene.until_notes("once", 6)}
    assert alive(hung.pid), "its neighbours still run there"
    scene.touch("go")
    ends = scene.until_notes("end", 2)
    assert {(note.pid, note.fence) for note in ends} == {(hung.pid, 1)}
    scene.until_counts(dead=1)
    until(lambda: not alive(hung.pid), "the end of the hung process", 3)
    assert worker.stop() == 0


@pytest.mark.parametrize("task", ["deadlocks", "deadlocks_async", "holds_interpreter"])
def test_a_deadlock_is_failed_at_its_timeout_and_its_slots_come_back(
    scene: Scene, task: str
) -> None:
    scene.enqueue(task, {"seconds": 60.0}, timeout_ms=1_000, max_attempts=1)
    worker = scene.worker("-c", "4", "--processes", "1")
    [stuck] = scene.until_notes("start", 1)
    scene.until_counts(dead=1)
    assert 1.0 <= time.monotonic() - stuck.at < 4.0
    [letter] = scene.dead()
    assert (letter.reason, letter.failures, letter.crashes) == ("max_attempts", 1, 0)
    scene.numbers("held", 11, 12)
    scene.numbers("held_def", 13, 14)
    until(lambda: {11, 12, 13, 14} <= set(scene.runs("start")), "four slots are there")
    until(lambda: not alive(stuck.pid), "the end of the process that is stuck")
    scene.touch("go")
    scene.until_counts(dead=1)
    assert worker.stop() == 0


def test_a_coroutine_past_its_timeout_is_cancelled_and_its_process_stays(scene: Scene) -> None:
    scene.numbers("sleeps_for_ever", 1, 2, timeout_ms=300, max_attempts=1)
    worker = scene.worker("-c", "2", "--processes", "1")
    runners = children(worker.pid)
    scene.until_counts(dead=2)
    assert {letter.failures for letter in scene.dead()} == {1}
    scene.numbers("once", 1, 2)
    assert {note.pid for note in scene.until_notes("once", 2)} == set(runners)
    assert "replaced" not in worker.text
    assert worker.stop() == 0


def test_a_process_task_past_its_timeout_is_killed_and_the_next_runs(scene: Scene) -> None:
    scene.numbers("apart_for_ever", 1, timeout_ms=300, max_attempts=1)
    worker = scene.worker("-c", "2", "--processes", "1")
    [hung] = scene.until_notes("apart", 1)
    with watched(hung.pid) as ends:
        scene.until_counts(dead=1)
        assert gone_within(ends, 2)
    [letter] = scene.dead()
    assert (letter.reason, letter.failures, letter.crashes) == ("max_attempts", 1, 0)
    scene.numbers("apart", 2)
    assert scene.until_notes("apart", 2)[-1].pid != hung.pid
    assert "charged" not in worker.text
    assert worker.stop() == 0


# The zoo: after each, the slots are there and the worker stops in order


def still_well(scene: Scene, *arguments: str, seconds: float = 4.0) -> list[Note]:
    """Check that a worker of four slots in one process, started before, runs jobs and stops."""
    [worker] = scene.started
    scene.numbers("once", *range(100, 108))
    scene.numbers("once_def", *range(108, 116))
    until(lambda: {*range(100, 116)} <= set(scene.runs("once")), f"slots are there: {worker.text}")
    assert worker.stop(seconds) == 0, arguments
    return scene.notes("once")


@pytest.mark.parametrize("kind", ["boom", "interrupt", "generator"])
@pytest.mark.parametrize("task", ["raises_base", "raises_base_def"])
def test_whatever_a_task_raises_is_a_failure(scene: Scene, task: str, kind: str) -> None:
    scene.enqueue(task, *[{"kind": kind}] * 8, max_attempts=1)
    worker = scene.worker("-c", "4", "--processes", "1")
    runners = children(worker.pid)
    scene.until_counts(dead=8)
    assert {letter.failures for letter in scene.dead()} == {1}
    assert {note.pid for note in still_well(scene)} == set(runners)


@pytest.mark.parametrize("task", ["recurses", "recurses_async"])
def test_an_endless_recursion_is_a_failure(scene: Scene, task: str) -> None:
    scene.numbers(task, *range(6), max_attempts=1)
    scene.worker("-c", "4", "--processes", "1")
    scene.until_counts(dead=6)
    assert {letter.error.type for letter in scene.dead()} == {"RecursionError"}
    still_well(scene)


@pytest.mark.parametrize("task", ["closes_descriptors", "closes_descriptors_async"])
def test_a_process_whose_descriptors_are_closed_is_replaced(scene: Scene, task: str) -> None:
    scene.numbers(task, 1, max_crashes=2)
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_counts(dead=1)
    assert [letter.reason for letter in scene.dead()] == ["max_crashes"]
    assert len(scene.notes("start")) == 2
    assert worker.count(r"died \(") == 2
    still_well(scene)


def test_a_changed_directory_moves_neither_the_queue_nor_the_notes(scene: Scene) -> None:
    scene.numbers("changes_directory", *range(8))
    scene.worker("-c", "4", "--processes", "1")
    assert {note.n for note in scene.until_notes("once", 8)} == set(range(8))
    still_well(scene)


@pytest.mark.parametrize(
    "task", ["changes_signals", "leaves_threads", "leaves_coroutines", "prints_much"]
)
def test_what_a_task_leaves_behind_costs_no_slot_and_no_stop(scene: Scene, task: str) -> None:
    scene.enqueue(task, *[{}] * 8)
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_counts()
    assert "died" not in worker.text
    still_well(scene)


def test_a_coroutine_that_cannot_be_cancelled_is_failed_and_replaced(scene: Scene) -> None:
    scene.numbers("swallows_every_cancel", *range(3), timeout_ms=300, max_attempts=1)
    worker = scene.worker("-c", "4", "--processes", "1")
    first = scene.until_notes("start", 3)
    scene.until_counts(dead=3)
    worker.line("did not end after its timeout")
    assert first[0].pid not in {note.pid for note in still_well(scene)}


def test_a_forked_child_that_outlives_its_job_holds_nobody_up(scene: Scene) -> None:
    scene.enqueue("forks", *[{}] * 4)
    worker = scene.worker("-c", "4", "--processes", "1")
    forked = scene.until_notes("forked", 4)
    scene.until_counts()
    still_well(scene)
    assert all(alive(note.n) for note in forked), "or this proves nothing"
    assert "died" not in worker.text


def test_a_forked_child_that_comes_back_runs_nobody_elses_job(scene: Scene) -> None:
    scene.numbers("forks_and_returns_twice", *range(4))
    scene.numbers("once_def", *range(2_000))
    scene.worker("-c", "1", "--processes", "1")
    scene.until_counts()
    assert scene.runs("forked") == Counter([*range(4), *range(4)])
    assert scene.runs("once") == Counter(range(2_000))
    still_well(scene)


# A full disk

ROOM = 48 << 20


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system at `folder`."""
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(folder)
    if libc.mount(b"tmpfs", target, b"tmpfs", 0, b"size=%d" % ROOM):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield
    finally:
        assert libc.umount2(target, 2) == 0


def test_on_a_full_disk_publishing_fails_and_the_worker_goes_on(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    try:
        disk = tmp_path / "disk"
        disk.mkdir()
        with small_disk(disk):
            # The tasks' own notes go elsewhere: they would fail for want of room, and be run again.
            (disk / "notes.txt").symlink_to(tmp_path / "notes.txt")
            prove_full_disk(disk)
    except PermissionError:
        in_a_namespace_of_its_own(request.node.nodeid, request.config.rootpath)


def in_a_namespace_of_its_own(test: str, root: Path) -> None:
    """Run this test again where an ordinary user may mount; where nobody may, say so."""
    unshare = shutil.which("unshare")
    if unshare is None or "DIBS_TEST_NAMESPACE" in os.environ:
        pytest.skip("nobody lets this user mount a small disk")
    if subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("nobody lets this user have a mount namespace for a small disk")
    command = [unshare, "-Urm", sys.executable, "-m", "pytest", "-q", test]
    environment = {**os.environ, "DIBS_TEST_NAMESPACE": "1"}
    ran = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def prove_full_disk(folder: Path) -> None:
    scene = Scene(folder)
    try:
        stored = fill(scene)
        assert stored > 200
        worker = scene.worker("-c", "8", "--processes", "2", ready=False)
        scene.until_notes("weighed", 100)
        scene.until_counts()
        done = scene.runs("weighed")
        assert done == Counter(range(stored)), f"every job was done, and once\n{worker.text}"
        assert "BrokerFull" not in worker.text, "acknowledging has its reserve"
        until(lambda: publishes(scene), "room again, once the idle worker has given it back")
        scene.until_notes("once", 1)
        assert worker.stop() == 0
    finally:
        scene.close()


def publishes(scene: Scene) -> bool:
    with suppress(BrokerFull):
        scene.numbers("once", 1)
        return True
    return False


def fill(scene: Scene) -> int:
    """Publish until the disk is full; return how many jobs are stored."""
    stored = 0
    filler = scene.folder / "filler"
    filler.write_bytes(bytes(ROOM - (31 << 20)))
    for weight in (100_000, 1_000, 10):
        with suppress(BrokerFull):
            while True:
                args = b'{"n":%d,"ballast":"%s"}' % (stored, b"x" * weight)
                fields = {"visibility_timeout_ms": 5_000}
                scene.publish(Message(os.urandom(16), "default", "weighs", args, **fields))
                stored += 1
    return stored
