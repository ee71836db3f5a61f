"""Workers under load, in one folder: jobs keep coming, workers come and go, all is written down.

Owns: the load, the history of a run, and what it must come to in the end.
Must never: end a process that it did not start.
Called by: the chaos tests.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from dibs.brokers.contract import Stored
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock
from dibs.errors import BrokerError
from dibs.message import Message
from tests.chaos.effects import EFFECTS, Effect
from tests.chaos.history import Event, History, Type, check, rule_18_effects
from tests.chaos.recorder import Reader
from tests.worker.workers import Scene, Started, until

LEASE_SECONDS = 1.0
"""The visibility timeout of all jobs, the shortest there is."""

PAUSE_SECONDS = 0.05
JOBS_AT_ONCE = 6
"""120 jobs a second, of 40 ms on average: five run at any moment, in eight slots and more."""

DRAIN_SECONDS = 120.0
"""How long the last worker may take: a limit for what is broken, not a measure."""


class Field:
    """One run: its folder, its load and its workers; chance is of the seed."""

    def __init__(self, scene: Scene, effect: str, patch: pytest.MonkeyPatch) -> None:
        here = Path(__file__).parent
        for name in ("load.py", "effects.py"):
            shutil.copy(here / name, scene.folder)
        patch.setenv("DIBS_CHAOS_EFFECT", effect)
        self.seed = int(os.environ.get("DIBS_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
        self.chance = random.Random(self.seed)
        self.effect: Effect = EFFECTS[effect](scene.folder)
        self._scene = scene
        self._path = scene.folder / "history.jsonl"
        scene.record = str(self._path)
        self._events: list[Event] = []
        self._over = threading.Event()

    def worker(self, *arguments: str, ready: bool = False) -> Started:
        """Start a worker of four slots."""
        return self._scene.worker(
            "-c", "4", "--processes", "1", *arguments, app="load:app", ready=ready
        )

    def kill(self, worker: Started) -> None:
        """SIGKILL a whole worker, and write it down."""
        at = worker.kill()
        self._events.append(Event("kill", "ok", at, str(worker.pid)))

    @contextmanager
    def load(self, tasks: dict[str, int], long: int = 0) -> Iterator[None]:
        """Publish jobs all the while, of `tasks` by weight; the first `long` of them take 3 s."""
        chance = random.Random(self.seed + 1)
        thread = threading.Thread(target=self._publish, args=(chance, tasks, long))
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def drain(self) -> None:
        """Wait until nothing is left to do."""
        try:
            until(lambda: sum(self._scene.counts()[:3]) == 0, "all jobs are done", DRAIN_SECONDS)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; it is {self._scene.counts()}, seed {self.seed}") from None

    def history(self) -> History:
        """Return what happened; call it when all workers have ended."""
        recorded = Reader(self._path).more()
        events = sorted([*recorded, *self._events], key=lambda event: event.t)
        connection = apsw.Connection(str(self._scene.folder / "zoo.db"))
        listed = {
            name: frozenset(int.from_bytes(id) for (id,) in connection.execute(query))
            for name, query in {
                "dead": "SELECT id FROM message JOIN dead USING (seq)",
                "live": "SELECT id FROM message WHERE seq NOT IN (SELECT seq FROM dead)",
            }.items()
        }
        connection.close()
        return History(events, listed["live"], listed["dead"])

    def broken(self, history: History) -> list[str]:
        """Return what breaks a rule, in the history and in what its jobs did to the world."""
        counts = self.effect.counts()
        return check(history, LEASE_SECONDS) + rule_18_effects(history, counts, self.effect.most)

    def _publish(self, chance: random.Random, tasks: dict[str, int], long: int) -> None:
        broker = open_sqlite(
            self._scene.folder / "zoo.db", clock=SystemClock(), worker_id=os.urandom(8)
        )
        last = 0
        while not self._over.wait(PAUSE_SECONDS):
            batch = []
            first, last = last + 1, last + JOBS_AT_ONCE
            for number in range(first, last + 1):
                (task,) = chance.choices(list(tasks), list(tasks.values()))
                seconds = 3.0 if number <= long else chance.choice([0.0, 0.02, 0.05, 0.1])
                delayed = chance.random() < 0.05
                due_ms = round((time.time() + chance.random()) * 1_000) if delayed else 0
                args = b'{"n":%d,"seconds":%g}' % (number, seconds)
                batch.append(message(number, task, args, due_ms))
            self._events += [published("invoke", one) for one in batch]
            try:
                answers = broker.publish(batch)
            except BrokerError:
                continue  # nobody can tell, or none is stored: either is no promise
            assert answers == [Stored()] * len(batch)
            self._events += [published("ok", one) for one in batch]
        broker.close()


def message(number: int, task: str, args: bytes, due_ms: int) -> Message:
    """Return a job whose id is its number."""
    lease_ms = round(LEASE_SECONDS * 1_000)
    return Message(number.to_bytes(16), "default", task, args, due_ms, 0, lease_ms)


def published(kind: Type, one: Message) -> Event:
    """Return the event of a message's publishing."""
    number = int.from_bytes(one.id)
    due = one.due_ms / 1_000
    return Event("publish", kind, time.monotonic(), "producer", number, seconds=due)
