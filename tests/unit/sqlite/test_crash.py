"""Processes killed at any instant lose nothing that was confirmed, and bring nothing back."""

import random
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.unit.sqlite.children import (
    bytes_of,
    child,
    open_here,
    publish_for_ever,
    taken_by,
    work_for_ever,
)


def listen(pipe: Connection, count: int) -> list[object]:
    """Return the next `count` things said, and whatever else is there by then."""
    said = [pipe.recv() for _ in range(count)]
    while pipe.poll():
        said.append(pipe.recv())
    return said


def all_said(pipe: Connection) -> list[object]:
    """Return what a process said before it died."""
    said = []
    try:
        while True:
            said.append(pipe.recv())
    except (EOFError, OSError):  # it may have died in the middle of a word
        return said


@pytest.mark.parametrize("seed", range(4))
def test_killed_publishers_and_workers_leave_every_message_in_one_place(
    path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    broker = open_here(path)
    confirmed: set[bytes] = set()
    tried: set[bytes] = set()
    done: set[bytes] = set()
    for round_ in range(3):
        tag = seed * 100 + round_
        with (
            child(publish_for_ever, path, tag) as (publisher, published),
            child(work_for_ever, path) as (worker, settled),
        ):
            said = listen(published, chance.randrange(5, 40))
            worked = listen(settled, chance.randrange(5, 20))
            for process in chance.sample([publisher, worker], 2):
                process.kill()
            said += all_said(published)
            worked += all_said(settled)
        confirmed |= {bytes_of(*one) for batch in said for one in batch}
        tried |= {id for verb, ids in worked if verb == "trying" for id in ids}
        done |= {id for verb, ids in worked if verb == "done" for id in ids}
    assert broker._db.connection.pragma("integrity_check") == "ok"
    # Another boot: what the dead held is granted again, and nothing else is left out.
    broker._run("another_boot", boot="later")
    left = taken_by(broker)
    assert len(left) == len(set(left))
    assert not done & set(left)
    assert confirmed <= done | tried | set(left)
    assert len(confirmed - done - set(left)) <= 5 * 3
    broker.close()
