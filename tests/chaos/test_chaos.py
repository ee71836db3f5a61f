"""Whole workers killed at random, and rolled over again and again, under load.

In the ordinary suite each takes seconds; `make chaos` gives them the time that the proof asks for:
DIBS_CHAOS_SECONDS of kills, and DIBS_CHAOS_RESTARTS restarts. DIBS_CHAOS_SEED repeats the choices
of a run, which are told where one fails; what the machine makes of them is its own.
"""

import os
import signal
import threading
import time

import pytest

from tests.chaos.effects import EFFECTS
from tests.chaos.field import LEASE_SECONDS, Field
from tests.chaos.history import LATE_SECONDS, percentile, redeliveries
from tests.worker.workers import Scene, until

KILL_SECONDS = float(os.environ.get("DIBS_CHAOS_SECONDS", "10"))
RESTARTS = int(os.environ.get("DIBS_CHAOS_RESTARTS", "5"))
PROOF_SECONDS = 60.0
"""From here on there are enough redeliveries for a 99th percentile, and it must be in time."""

MEAN_SECONDS = 1.5
"""How long it is from one kill to the next, on average."""

SHUTDOWN_SECONDS = 2.0
"""The shutdown timeout of the rolling restarts; some jobs take longer."""

READY = r"^  slots "
"""The end of a worker's banner."""

PLAIN = {"works": 7, "works_def": 3}
MIXED = {**PLAIN, "fails_once": 1}


def kill_at_random(
    field: Field, seconds: float, tasks: dict[str, int], mean: float = MEAN_SECONDS
) -> None:
    """Keep three workers at work, and kill one of those that are ready at a time."""
    workers = [field.worker(ready=True) for _ in range(3)]
    over_at = time.monotonic() + seconds
    pause = threading.Event()
    with field.load(tasks):
        while time.monotonic() < over_at:
            pause.wait(field.chance.expovariate(1 / mean))
            ready = until(lambda: [one for one in workers if one.saw(READY)], "a worker")
            victim = field.chance.choice(ready)
            field.kill(victim)
            workers[workers.index(victim)] = field.worker()
    field.drain()
    for worker in workers:
        worker.line(READY)  # the last one may only just have started, and know of no signal
    assert [worker.stop() for worker in workers] == [0, 0, 0]


def judge_kills(field: Field) -> None:
    """Hold the history to every rule, and say what it came to."""
    history = field.history()
    late = redeliveries(history)
    jobs, kills = len(history.jobs("publish", "ok")), len(list(history.of("kill")))
    print(
        f"\nseed {field.seed}: {jobs} jobs, {kills} workers killed, {len(late)} jobs redelivered,"
        f" after {percentile(late, 0.5):.2f} s (p50), {percentile(late, 0.99):.2f} s (p99),"
        f" {max(late, default=0):.2f} s (max); {field.effect.spared()} effects not repeated"
    )
    broken = field.broken(history)
    assert broken == [], f"seed {field.seed}: {broken}"
    assert (history.live, history.dead) == (frozenset(), frozenset())
    assert late, "or no kill met a running job"
    if KILL_SECONDS >= PROOF_SECONDS:
        assert percentile(late, 0.99) <= LEASE_SECONDS + LATE_SECONDS, f"seed {field.seed}"
        assert field.effect.spared() or field.effect.most is None, "or no kill met an effect"


@pytest.mark.parametrize("effect", EFFECTS)
def test_workers_killed_at_random_lose_nothing_and_keep_every_rule(
    scene: Scene, effect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(scene, effect, monkeypatch)
    kill_at_random(field, KILL_SECONDS, MIXED)
    judge_kills(field)


@pytest.mark.parametrize(
    ("fault", "finding"), [("pops", "rule 1: .* lost"), ("rescues_late", "rule 23: .* passed over")]
)
def test_a_worker_that_loses_or_forgets_jobs_is_found(
    scene: Scene, fault: str, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.fault = fault
    field = Field(scene, "appended", monkeypatch)
    kill_at_random(field, 3.0, PLAIN, mean=0.3)
    with pytest.raises(AssertionError, match=finding):
        judge_kills(field)


def test_an_effect_that_is_had_twice_is_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(scene, "appended", monkeypatch)
    field.effect.most = 1  # which it does not keep
    kill_at_random(field, 3.0, PLAIN, mean=0.3)
    with pytest.raises(AssertionError, match=r"rule 18: .* with more than 1 effects"):
        judge_kills(field)


def roll(field: Field, restarts: int) -> list[float]:
    """Start a worker, stop the one before it, again and again; return how long each stop took."""
    took = []
    pause = threading.Event()
    timeout = ("--shutdown-timeout", f"{SHUTDOWN_SECONDS:g}")
    old = field.worker(*timeout, ready=True)
    with field.load(PLAIN, long=restarts):
        for _ in range(restarts):
            new = field.worker(*timeout, ready=True)
            pause.wait(field.chance.uniform(0.0, 1.0))
            asked_at = time.monotonic()
            old.send(signal.SIGTERM)
            assert old.end() in (0, 1), old.text  # 1: a long job was given back
            took.append(time.monotonic() - asked_at)
            old = new
    field.drain()
    assert old.stop() == 0
    return took


def judge_restarts(field: Field, took: list[float]) -> None:
    """Hold the history to every rule; no restart may have cost an attempt, or too much time."""
    history = field.history()
    jobs = len(history.jobs("publish", "ok"))
    print(
        f"\nseed {field.seed}: {jobs} jobs, {len(took)} restarts, each worker gone after"
        f" {percentile(took, 0.5):.2f} s (p50), {max(took):.2f} s (max);"
        f" {len(list(history.of('release', 'ok')))} leases given back"
    )
    broken = field.broken(history)
    burnt = {event.job for event in history.of("claim", "ok") if event.attempt > 1}
    if burnt:
        first = min(burnt)
        broken.append(f"rule 29: {len(burnt)} jobs have lost an attempt: {history.story(first)}")
    assert broken == [], f"seed {field.seed}: {broken}"
    assert max(took) <= SHUTDOWN_SECONDS + 2, f"seed {field.seed}: rule 29"
    assert (history.live, history.dead) == (frozenset(), frozenset())


@pytest.mark.parametrize("effect", EFFECTS)
def test_rolling_restarts_burn_no_attempt_and_keep_every_rule(
    scene: Scene, effect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(scene, effect, monkeypatch)
    judge_restarts(field, roll(field, RESTARTS))


def test_a_worker_that_forgets_acks_as_it_stops_is_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.fault = "forgets_acks_when_stopped"
    field = Field(scene, "appended", monkeypatch)
    took = roll(field, 2)
    with pytest.raises(AssertionError, match=r"rule 29: .* lost an attempt"):
        judge_restarts(field, took)
