"""What goes wrong with the broker's file does not end a worker, and it works on when it heals."""

import time

import apsw

from tests.regressions.seeding import finds
from tests.worker.workers import Scene, Started, until

HEAL_SECONDS = 10.0
"""How soon after a trouble is over a worker runs jobs again (rule 25)."""


def told(worker: Started, what: str, times: int) -> None:
    until(lambda: worker.count(what) >= times or worker.process.poll() is not None, what)
    assert worker.process.poll() is None, f"it ended: {worker.text}"


@finds("claims_no_more_after_trouble", "1 x once.*(?s:.*)the broker works again")
@finds("dies_of_trouble", "it ended")
def test_b34_a_file_that_others_lock_is_waited_out_and_worked_on(scene: Scene) -> None:
    """huey 445, arq 435, celery 8030: a lock or a blip ended the worker, or its consuming."""
    scene.numbers("held", 0)
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_notes("start", 1)
    stranger = apsw.Connection(str(scene.folder / "zoo.db"))
    stranger.set_busy_timeout(30_000)
    for number in range(1, 4):
        stranger.execute("BEGIN IMMEDIATE")
        # The running job's heartbeat, a third of a second away, meets the lock.
        told(worker, "the broker fails: BrokerBusy: .* another program has it locked", number)
        stranger.execute("ROLLBACK")
        healed_at = time.monotonic()
        told(worker, "the broker works again", number)
        scene.numbers("once", number)
        assert scene.until_notes("once", number)[-1].at < healed_at + HEAL_SECONDS
    stranger.close()
    scene.touch("go")
    scene.until_counts()
    assert worker.stop() == 0
