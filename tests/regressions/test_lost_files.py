"""Files that are taken away from under a running worker or producer."""

import shutil
import time
from pathlib import Path

import pytest

from dibs import App
from dibs.errors import BrokerUnavailable
from tests.regressions.seeding import finds
from tests.worker.workers import Scene, until

FILES = ("", "-wal", "-shm", "-lock", "-turn", "-board", "-reserve")

NOT_THE_FILE = "is not the file any more that was opened here"


def clear_away(queue: Path) -> None:
    for suffix in FILES:
        queue.with_name(queue.name + suffix).unlink(missing_ok=True)


def note(text: str) -> None: ...


@finds("trusts_its_descriptor", "DID NOT RAISE")
def test_b17_what_is_stored_in_a_queue_file_that_is_gone_is_refused(
    app: App, tmp_path: Path
) -> None:
    """kombu 223, dramatiq 832: a message for a queue that was deleted vanished in silence."""
    task = app.find("note")
    task.enqueue("before")
    clear_away(tmp_path / "producer.db")
    with pytest.raises(BrokerUnavailable, match=NOT_THE_FILE):
        task.enqueue("nowhere")
    other = App(app.url)
    other.task(note)
    other.find("note").enqueue("in a new file of that name")
    other.close()
    with pytest.raises(BrokerUnavailable, match=NOT_THE_FILE):
        task.enqueue("nowhere")
    app.close()
    assert task.enqueue("in the new file")


@finds("trusts_its_descriptor", "not within 5 s: the worker says so")
def test_b17_an_idle_worker_says_that_its_queue_file_is_gone(scene: Scene) -> None:
    """nats and kombu alike: a consumer of what was deleted waited on in silence."""
    worker = scene.worker("-c", "2", "--processes", "1")
    scene.numbers("once", 1)
    scene.until_notes("once", 1)
    scene.until_counts()  # else what it ran is not acknowledged, and is held until the end
    clear_away(scene.folder / "zoo.db")
    until(lambda: worker.saw(NOT_THE_FILE), "the worker says so")
    assert worker.stop() == 0


@finds("hangs_its_bell_up_once", "only at the next look")
def test_b38_a_bell_that_was_taken_down_is_hung_up_again(scene: Scene) -> None:
    """procrastinate 1425, bullmq 4729: a lost LISTEN was never made again; polling was all."""
    worker = scene.worker("-c", "2", "--processes", "1")
    scene.numbers("once", 0)
    scene.until_notes("once", 1)
    shutil.rmtree(scene.folder / "zoo.db-bells")
    scene.numbers("once", 1)
    scene.until_notes("once", 2)  # at the safety poll, a second later at most
    waits: list[float] = []
    for number in range(2, 6):
        until(lambda: any("=" in each.name for each in bells(scene)), "only at the next look")
        asked_at = time.monotonic()
        scene.numbers("once", number)
        waits.append(scene.until_notes("once", number + 1)[-1].at - asked_at)
    assert min(waits) < 0.25, "only at the next look"
    assert worker.stop() == 0


def bells(scene: Scene) -> list[Path]:
    folder = scene.folder / "zoo.db-bells"
    return list(folder.iterdir()) if folder.is_dir() else []
