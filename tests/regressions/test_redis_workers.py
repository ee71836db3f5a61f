"""Whole workers on a Redis server that is ended, started, flushed and cut off under them.

And brokers that look for what ran out, at any moment of those who end it.
"""

import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dibs.brokers.contract import APPLIED, GONE, STALE, Applied
from dibs.brokers.redis import open_url
from dibs.clock import SystemClock
from dibs.errors import BrokerError
from dibs.message import Ack, Message
from dibs.testing.making import (
    VISIBILITY_MS,
    claim,
    claim_all,
    ids,
    message,
    messages,
    publish,
    settle,
)
from tests.regressions.seeding import finds
from tests.servers.missing import not_installed
from tests.servers.redis import RedisServer, program, serving
from tests.unit.redis.test_redis_handover import Place
from tests.worker.workers import Scene, Started, until

HEAL_SECONDS = 10.0
"""How soon after a trouble is over a worker runs jobs again (rule 25)."""


class RedisScene(Scene):
    """The zoo's app, its queues on a server of its own."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder)
        self.broker.close()
        self.server = server
        self.broker = open_url(server.url(), clock=SystemClock(), worker_id=os.urandom(16))
        self.broker.declare(["default"])

    def worker(self, *arguments: str, app: str = "zoo:app", ready: bool = True) -> Started:
        """Start a worker on the server."""
        return super().worker("--url", self.server.url(), *arguments, app=app, ready=ready)

    def publish(self, *messages: Message) -> None:
        """Store messages, as often as it takes: the same ids are the same jobs."""

        def stored() -> bool:
            try:
                self.broker.publish(messages)
            except BrokerError:
                return False
            return True

        until(stored, "the server takes jobs")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[RedisScene]:
    """A server, and workers that are ended after the test."""
    if program() is None:
        not_installed("Redis", "redis-server")
    with serving("--appendfsync", "always") as server:  # tests kill it: see tests/faults/grounds.py
        made = RedisScene(tmp_path, server)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def place(running: RedisServer) -> Iterator[Place]:
    """Queues whose time a test moves."""
    made = Place(running)
    yield made
    made.close()


def soon(scene: RedisScene, numbers: "itertools.count[int]") -> None:
    """A job that is published now runs within the time to heal."""
    number = next(numbers)
    healed_at = time.monotonic()
    scene.numbers("once", number)
    notes = until(lambda: [n for n in scene.notes("once") if n.n == number], f"job {number}")
    assert notes[0].at < healed_at + HEAL_SECONDS


def test_jobs_are_done_retried_delayed_and_given_up(scene: RedisScene) -> None:
    scene.numbers("once", *range(200))
    scene.numbers("once", 200, due_ms=round(time.time() * 1_000) + 1_500)
    scene.enqueue("fails", {"text": "no"}, max_attempts=2)
    worker = scene.worker("-c", "4")
    assert worker.saw("D2")
    scene.until_counts(dead=1)
    assert scene.runs("once") == Counter(range(201))
    (dead,) = scene.dead()
    assert (dead.reason, dead.failures, len(dead.attempts)) == ("max_attempts", 2, 2)
    assert worker.stop() == 0


def test_b18_b26_b33_the_jobs_of_a_killed_worker_come_back(scene: RedisScene) -> None:
    """rq 2015, arq 343, huey 253: lost, or back after hours, or gone when they were taken."""
    scene.numbers("held", 1, 2)
    first = scene.worker("-c", "2", "--processes", "1")
    scene.until_notes("start", 2)
    killed_at = first.kill()
    scene.touch("go")
    scene.worker("-c", "2", "--processes", "1")
    again = scene.until_notes("end", 2)
    assert {note.n: note.attempt for note in again} == {1: 2, 2: 2}
    assert all(note.at < killed_at + 1 + 2 + HEAL_SECONDS for note in again)


@finds("claims_no_more_after_trouble", "job ")
@finds("dies_of_trouble", "it ended|job 1")
@finds("keeps_a_broken_connection", "job 1")
def test_b01_b27_a_worker_goes_on_after_every_restart_of_the_server(scene: RedisScene) -> None:
    """celery 8030, arq 435: it reconnected and consumed no more, or a blip ended it."""
    numbers = itertools.count()
    worker = scene.worker("-c", "4", "--processes", "1")
    soon(scene, numbers)
    for end in (scene.server.kill, scene.server.stop) * 2:
        end()
        scene.server.start()
        soon(scene, numbers)
        assert worker.process.poll() is None, f"it ended: {worker.text}"
    assert worker.stop() == 0
    assert set(scene.runs("once").values()) == {1}


def test_b23_delayed_jobs_come_in_time_after_a_restart_of_the_server(scene: RedisScene) -> None:
    """dramatiq 527: they were held by a worker, and came hours late."""
    due = round(time.time() * 1_000) + 3_000
    scene.numbers("once", *range(50), due_ms=due)
    scene.worker("-c", "4", "--processes", "1")
    soon(scene, itertools.count(50))
    scene.server.kill()
    scene.server.start()
    scene.until_notes("once", 51)
    assert time.time() * 1_000 < due + HEAL_SECONDS * 1_000
    assert scene.runs("once") == Counter(range(51))


@finds("keeps_a_broken_connection", "job ")
def test_b45_connections_that_are_cut_again_and_again_end_no_loop(scene: RedisScene) -> None:
    """bullmq 648, 1658: an error of a blocked connection ended the loop."""
    numbers = itertools.count()
    worker = scene.worker("-c", "4", "--processes", "1")
    with scene.server.client() as client:
        for kind in ("pubsub", "normal", "pubsub"):
            soon(scene, numbers)
            client.client_kill_filter(_type=kind, skipme=True)
            soon(scene, numbers)
    assert worker.stop() == 0


def test_b17_b47_what_is_flushed_is_gone_and_nothing_is_stuck(scene: RedisScene) -> None:
    """kombu 223, redis 6199: a queue that was deleted took no more, or kept what had no bytes."""
    numbers = itertools.count()
    scene.numbers("held", -1)
    worker = scene.worker("-c", "4", "--processes", "1")
    scene.until_notes("start", 1)
    with scene.server.client() as client:
        client.flushall()
        client.script_flush()
    soon(scene, numbers)
    scene.touch("go")
    worker.line("the lease is lost")
    soon(scene, numbers)
    assert worker.stop() == 0


def test_b35_a_server_that_is_stopped_for_long_is_waited_for(scene: RedisScene) -> None:
    """saq 118: clients hung."""
    numbers = itertools.count()
    worker = scene.worker("-c", "4", "--processes", "1")
    soon(scene, numbers)
    os.kill(scene.server.pid, signal.SIGSTOP)
    worker.line("the broker fails: ")
    os.kill(scene.server.pid, signal.SIGCONT)
    worker.line("the broker works again")
    soon(scene, numbers)
    assert worker.stop() == 0


def test_dibs_looks_at_queues_and_dead_letters_there(scene: RedisScene) -> None:
    scene.numbers("once", *range(3))
    scene.enqueue("fails", {"text": "no"}, max_attempts=1)
    worker = scene.worker("-c", "4")
    scene.until_counts(dead=1)
    assert worker.stop() == 0
    dibs = [sys.executable, "-m", "dibs"]
    for words, seen in (("queues", "default"), ("doctor", "stale ack"), ("dlq list", "ValueError")):
        looked = scene.start([*dibs, *words.split(), "--url", scene.server.url()])
        looked.line(seen)
        assert looked.end() == 0


def test_b19_b40_what_ends_while_the_expired_are_collected_does_not_come_back(
    place: Place,
) -> None:
    """rq 2289, river 1302: a rescuer overwrote what had ended after it had looked.

    All leases run out at one moment, among their settlements; another claims all that while.
    """
    holder, other = place.open(), place.open()
    publish(holder, *messages(600))
    leases = claim(holder, limit=600)[::-1]  # the rescuer comes from the other side
    over, again = threading.Event(), []

    def rescue() -> None:
        while not over.is_set():
            again.extend(claim(other))

    thread = threading.Thread(target=rescue)
    thread.start()
    ends = []
    for number, lease in enumerate(leases):
        if number == 300:
            place.advance_server(VISIBILITY_MS)  # the calls under way are in time
        ends.append(settle(holder, lease, Ack()))
    over.set()
    thread.join(10)
    again += claim_all(other)
    ended = {lease.message.id for lease, end in zip(leases, ends, strict=True) if end != STALE}
    assert ended.isdisjoint(ids(again))
    assert len(ended) + len(set(ids(again))) == 600
    assert set(ends[:300]) == {APPLIED}
    assert set(ends[300:]) == {Applied(late=True), STALE}, "they were in each other's way"


def test_b19_what_was_collected_can_still_be_acknowledged(place: Place) -> None:
    """It is late, not lost, and nobody's any more."""
    holder, other = place.open(), place.open()
    publish(holder, *messages(2))
    first, second = claim(holder, limit=2)
    assert settle(holder, first, Ack()) == APPLIED
    place.advance(VISIBILITY_MS)
    (counts,) = other.inspector().queues()
    assert (counts.ready, counts.in_flight) == (1, 0)
    assert settle(holder, second, Ack()) == Applied(late=True)
    assert claim_all(other) == []
    assert [settle(holder, lease, Ack()) for lease in (first, second)] == [GONE, GONE]


def test_b41_fifteen_thousand_orphans_of_another_queue_are_in_nobodys_way(place: Place) -> None:
    """river 1318: a page full of what nobody could rescue hid the rest."""
    broker = place.open()
    publish(broker, *messages(15_000, "orphans"))
    while claim(broker, "orphans", limit=1_000):
        pass
    place.advance(VISIBILITY_MS)
    mine = publish(broker, message())
    started = time.monotonic()
    assert ids(claim(broker, limit=10)) == ids(mine)
    assert time.monotonic() - started < 5
    rescued = [lease for _ in range(15) for lease in claim(broker, "orphans", limit=1_000)]
    assert len({lease.message.id for lease in rescued}) == 15_000
    assert {lease.lost for lease in rescued} == {1}
