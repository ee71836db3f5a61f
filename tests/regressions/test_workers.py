"""What became of whole workers elsewhere, and of their jobs."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.regressions.seeding import finds
from tests.worker.workers import Scene, children, until

REPLACED_SECONDS = 5.0
"""How soon after its death a runner process is there again."""


@finds("counts_no_crash", "it ran more often than max_crashes")
def test_b05_what_kills_its_process_is_dead_after_exactly_max_crashes(scene: Scene) -> None:
    """OasisPlatform 975: what was rejected because its worker was lost came back for ever."""
    scene.enqueue("crashes", {"n": 1, "how": "kill"}, max_crashes=3)
    worker = scene.worker("-c", "2", "--processes", "1")
    until(lambda: scene.counts()[3] or len(scene.notes("kill")) > 3, "its end")
    assert len(scene.notes("kill")) <= 3, "it ran more often than max_crashes"
    scene.until_counts(dead=1)
    assert len(scene.notes("kill")) == 3
    assert [letter.crashes for letter in scene.dead()] == [3]
    assert worker.stop() == 0


def runners_of_many(pump: int) -> list[int]:
    """Return the runners that are replaced at once: one for a single job is, if it is wanted."""
    found: list[int] = []
    for pid in children(pump):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            found += [pid] * (command[-1] != b"1")
    return found


def another_than(known: list[int], pump: int) -> set[int]:
    """Return the runners that are not known."""
    return set(runners_of_many(pump)) - set(known)


@finds("replaces_nobody", "not within 5 s: another process")
def test_b09_after_many_deaths_of_runners_every_slot_is_there(scene: Scene) -> None:
    """celery 2011, 496, 4321: the pool hung after a child was killed, or had been replaced."""
    chance = random.Random(9)
    scene.enqueue("works", *({"n": n, "seconds": 0.02} for n in range(500)), max_crashes=20)
    worker = scene.worker("-c", "4", "--processes", "2")
    for _ in range(8):
        shared = until(lambda: runners_of_many(worker.pid), "a runner of many jobs")
        os.kill(chance.choice(shared), signal.SIGKILL)
        another = partial(another_than, shared, worker.pid)
        until(another, "another process", REPLACED_SECONDS)
    scene.until_counts()
    assert set(scene.runs("end")) == set(range(500)), "no job is lost"
    scene.numbers("held", 5_001, 5_002)
    scene.numbers("held_def", 5_003, 5_004)
    until(lambda: {*range(5_001, 5_005)} <= set(scene.runs("start")), "four at a time")
    scene.touch("go")
    scene.until_counts()
    assert worker.stop() == 0


@finds("renews_until_stopped", "run by another")
def test_b50_a_worker_that_stops_keeps_the_leases_of_what_still_runs(scene: Scene) -> None:
    """hatchet 4383, solid_queue 778: heartbeats ended before the last running tasks did."""
    scene.numbers("held", 1)
    scene.numbers("held_def", 2)
    stopping = scene.worker("-c", "2", "--processes", "1")
    scene.until_notes("start", 2)
    other = scene.worker("-c", "2", "--processes", "1")
    stopping.send(signal.SIGTERM)
    stopping.line("stopping: 2 jobs held here")
    until_at = time.monotonic() + 2.5  # and the visibility timeout is 1 s
    until(lambda: time.monotonic() > until_at or len(scene.notes("start")) > 2, "its time")
    scene.touch("go")
    assert stopping.end() == 0
    scene.until_counts()
    assert scene.runs("start") == Counter([1, 2]), "run by another while it still ran"
    assert scene.runs("end") == Counter([1, 2])
    assert other.stop() == 0
