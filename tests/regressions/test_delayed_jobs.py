"""Delayed jobs lie in the broker, whatever becomes of the workers, and come in time."""

import os
import signal
import time
from collections import Counter

from tests.regressions.seeding import finds
from tests.worker.workers import Scene, until

LATEST_SECONDS = 2.0
"""How long after its due time an idle worker starts a job at the latest (rule 24)."""


def due_in(seconds: float) -> int:
    return round((time.time() + seconds) * 1_000)


def moments(scene: Scene, due_ms: int) -> list[float]:
    """Return how many seconds after the due time each job was run."""
    offset = time.time() - time.monotonic()
    return [note.at + offset - due_ms / 1_000 for note in scene.notes("once")]


def waits(scene: Scene) -> bool:
    """Whether a worker has found nothing, and asks to be rung."""
    bells = scene.folder / "zoo.db-bells"
    return bells.exists() and any("=" in name for name in os.listdir(bells))


@finds("grants_early", "ran before it was due")
def test_b02_a_delay_longer_than_the_visibility_timeout_runs_each_job_once(scene: Scene) -> None:
    """kombu 337: a job with an ETA beyond the visibility timeout was run by many workers."""
    workers = [scene.worker("-c", "4", "--processes", "1") for _ in range(2)]
    due_ms = due_in(2.5)  # and the visibility timeout is 1 s
    scene.numbers("once", *range(20), due_ms=due_ms)
    until(lambda: scene.counts() == (0, 0, 0, 0) or scene.notes(), "the jobs")
    until(lambda: len(scene.notes("once")) >= 20, "all jobs")
    assert min(moments(scene, due_ms)) >= -0.001, "it ran before it was due"
    scene.until_counts()
    assert scene.runs("once") == Counter(range(20))
    assert {note.fence for note in scene.notes("once")} == {1}
    assert [worker.stop() for worker in workers] == [0, 0]


@finds("grants_early", "taken out of the broker before")
@finds("grants_late", "late")
def test_b08_delayed_jobs_outlive_every_worker_and_come_in_time(scene: Scene) -> None:
    """kombu 1836, dramatiq 527: delayed jobs were lost on TERM, or came hours late after it."""
    due_ms = due_in(4)
    scene.numbers("once", *range(5_000), due_ms=due_ms)
    for number in (signal.SIGTERM, signal.SIGKILL):
        worker = scene.worker("-c", "4", "--processes", "1")
        until(lambda: waits(scene) or scene.counts()[1] < 5_000, "its first claim")
        worker.send_all(number)
        worker.end()
        scheduled = scene.counts()[1]
        assert scheduled == 5_000 or due_in(0) > due_ms, "taken out of the broker before it was due"
    last = scene.worker("-c", "4", "--processes", "1")
    able_at = max(due_ms, due_in(0))
    until(lambda: scene.notes("once"), "the first", 30)
    assert min(moments(scene, due_ms)) >= -0.001, "it ran before it was due"
    assert min(moments(scene, able_at)) <= LATEST_SECONDS, "the first came late"
    scene.until_counts()
    assert scene.runs("once") == Counter(range(5_000))
    assert last.stop() == 0
