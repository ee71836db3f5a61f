"""Each rule passes a history that keeps it, and finds one that breaks it."""

import pytest

from tests.chaos.history import (
    DRIFT,
    NO_JOB,
    Event,
    History,
    Op,
    check,
    percentile,
    redeliveries,
    rule_18_effects,
)

LEASE = 10.0


def call(
    op: Op, at: float, proc: str = "a", job: int = 1, fence: int = 1, **more: float
) -> list[Event]:
    """Return a call that was answered with success a tenth of a second after it left."""
    attempt = int(more.pop("attempt", 1))
    asked = Event(op, "invoke", at, proc, job, fence, attempt, **more)
    return [asked, Event(op, "ok", at + 0.1, proc, job, fence, attempt, **more)]


def published(at: float = 0.0, job: int = 1, due: float = 0.0) -> list[Event]:
    return call("publish", at, "producer", job, 0, seconds=due)


def claimed(
    at: float, proc: str = "a", job: int = 1, fence: int = 1, wall: float = 1e9
) -> list[Event]:
    return call("claim", at, proc, job, fence, seconds=LEASE, wall=wall)


def nothing(at: float, proc: str = "b") -> list[Event]:
    return call("claim", at, proc, NO_JOB, 0)


def killed(at: float, proc: str = "a") -> list[Event]:
    return [Event("kill", "ok", at, proc)]


def unanswered(op: Op, at: float, proc: str = "a", fence: int = 1) -> list[Event]:
    return call(op, at, proc, 1, fence)[:1]


def refused(op: Op, at: float, proc: str = "a", fence: int = 1) -> list[Event]:
    return [*unanswered(op, at, proc, fence), Event(op, "fail", at + 0.1, proc, 1, fence)]


def history(*parts: list[Event], live: tuple[int, ...] = (), dead: tuple[int, ...] = ()) -> History:
    events = sorted((event for part in parts for event in part), key=lambda event: event.t)
    return History(events, frozenset(live), frozenset(dead))


LAWFUL = {
    "done": history(published(), claimed(1), call("ack", 2)),
    "done late": history(published(), claimed(1), call("ack", 30)),
    "live": history(published(), live=(1,)),
    "dead": history(published(), claimed(1), call("dead", 2), dead=(1,)),
    "nobody knows whether it was stored": history(published()[:1]),
    "nobody knows whether it was stored, and it was": history(published()[:1], live=(1,)),
    "nobody knows whether it was acknowledged": history(
        published(), claimed(1), unanswered("ack", 2), killed(2)
    ),
    "it was not, and came back": history(
        published(), claimed(1), unanswered("ack", 2), killed(2), claimed(12, "b", 1, 2)
    ),
    "lost, and run by another": history(
        published(), claimed(1), killed(2), claimed(12, "b", 1, 2), call("ack", 13, "b", 1, 2)
    ),
    "the late one is refused": history(
        published(),
        claimed(1),
        claimed(12, "b", 1, 2),
        refused("ack", 13),
        call("ack", 14, "b", 1, 2),
    ),
    "renewed": history(
        published(),
        claimed(1),
        call("extend", 9, seconds=LEASE),
        call("ack", 18),
    ),
    "granted, and heard of after another had it": history(
        published(),
        claimed(1)[:1],
        claimed(12, "b", 1, 2),
        [claimed(13)[1]],
        refused("ack", 14),
        call("ack", 15, "b", 1, 2),
    ),
    "granted to one who died before the answer": history(
        published(), claimed(1)[:1], killed(1), claimed(12, "b", 1, 2), call("ack", 13, "b", 1, 2)
    ),
    "given back and taken by another": history(
        published(),
        claimed(1),
        call("release", 2),
        claimed(3, "b", 1, 2),
        call("ack", 4, "b", 1, 2),
    ),
    "failed and tried again": history(
        published(),
        claimed(1),
        call("nack", 2, seconds=5),
        claimed(8, fence=2),
        call("ack", 9, fence=2),
    ),
    "late, for nobody asked in time": history(
        published(), claimed(1), killed(2), claimed(30, "b", 1, 2), live=(1,)
    ),
    "an older one came first": history(
        published(),
        published(job=2),
        claimed(1, job=2),
        killed(2),
        claimed(13.2, "b"),
        claimed(13.4, "b", 2, 2),
        live=(1, 2),
    ),
    "due": history(published(due=100.0), claimed(1, wall=100.0), call("ack", 2)),
}

BROKEN = {
    "rule 1: 1 jobs are lost": history(published()),
    "rule 1: 1 jobs are lost: [2]": history(published(), published(job=2), live=(1,)),
    "rule 2: job 2 was granted and never published": history(
        published(), claimed(1, job=2), live=(1,)
    ),
    "rule 2: job 1 was granted and never": history(claimed(1), published(2), call("ack", 3)),
    "rule 8: job 1 was held with fence 1 until": history(
        published(), claimed(1), claimed(1 + LEASE * (1 - DRIFT) - 0.2, "b", 1, 2), live=(1,)
    ),
    "rule 8: job 1 was held with fence 1 until 18.9": history(
        published(),
        claimed(1),
        call("extend", 9, seconds=LEASE),
        claimed(12, "b", 1, 2),
        live=(1,),
    ),
    "rule 9: job 1 got fence 1 after 1": history(
        published(), claimed(1), call("release", 2), claimed(3, "b"), live=(1,)
    ),
    "rule 9: job 1 got fence 1 after 2": history(
        published(), claimed(1, fence=2), call("release", 2, fence=2), claimed(3, "b"), live=(1,)
    ),
    "rule 9: the ack of job 1 with the old fence was applied": history(
        published(), claimed(1), claimed(12, "b", 1, 2), call("ack", 13)
    ),
    "rule 10: job 1 was over": history(
        published(), claimed(1), call("ack", 2), claimed(3, "b", 1, 2)
    ),
    "rule 10: job 1 was over, and granted again": history(
        published(), claimed(1), call("dead", 2), claimed(3, "b", 1, 2), dead=(1,)
    ),
    "rule 16: jobs are done and live: [1]": history(
        published(), claimed(1), call("ack", 2), live=(1,)
    ),
    "rule 16: jobs are done and dead: [1]": history(
        published(), claimed(1), call("ack", 2), dead=(1,)
    ),
    "rule 16: jobs are dead and live: [1]": history(published(), live=(1,), dead=(1,)),
    "rule 16: nobody published [2]": history(published(), live=(1, 2)),
    "rule 17: job 1 was granted before it was due": history(
        published(due=100.0), claimed(1, wall=99.9), call("ack", 2)
    ),
    "rule 17: job 1 was granted before its delay": history(
        published(), claimed(1), call("nack", 2, seconds=5), claimed(6, fence=2), live=(1,)
    ),
    "rule 17: job 1 was granted before its delay was over": history(
        published(), claimed(1), call("release", 2, seconds=5), claimed(6, fence=2), live=(1,)
    ),
    "rule 23: job 1 was passed over 11.10 s": history(
        published(), claimed(1), killed(2), nothing(13.1), claimed(13.5, "b", 1, 2), live=(1,)
    ),
    "rule 23: job 1 was passed over 11.20 s": history(
        published(), published(job=2), claimed(1), killed(2), claimed(13.2, "b", 2), live=(1, 2)
    ),
    "rule 23: job 1 was never granted again": history(
        published(), claimed(1), killed(2), live=(1,)
    ),
}


@pytest.mark.parametrize("name", LAWFUL)
def test_a_lawful_history_passes(name: str) -> None:
    assert check(LAWFUL[name], LEASE) == []


@pytest.mark.parametrize("finding", BROKEN)
def test_what_breaks_a_rule_is_found_and_nothing_else(finding: str) -> None:
    [found] = check(BROKEN[finding], LEASE)
    assert found.startswith(finding)


def test_effects_that_are_had_as_often_as_they_may_be_pass() -> None:
    done = LAWFUL["done"]
    assert rule_18_effects(done, {1: 1}, most=1) == []
    assert rule_18_effects(done, {1: 3}, most=None) == []
    assert rule_18_effects(LAWFUL["live"], {}, most=1) == []
    assert rule_18_effects(LAWFUL["live"], {1: 1}, most=1) == [], "had, and not acknowledged yet"


@pytest.mark.parametrize(
    ("counts", "most", "finding"),
    [
        ({}, 1, "1 jobs without effect: [1]"),
        ({}, None, "1 jobs without effect: [1]"),
        ({1: 2}, 1, "1 jobs with more than 1 effects: [1]"),
        ({1: 1, 2: 1}, 1, "1 jobs that nobody published had an effect: [2]"),
    ],
)
def test_effects_that_are_missing_too_many_or_of_nobody_are_found(
    counts: dict[int, int], most: int | None, finding: str
) -> None:
    assert rule_18_effects(LAWFUL["done"], counts, most) == [f"rule 18: {finding}"]


def test_a_redelivery_counts_from_the_kill_to_the_next_grant() -> None:
    assert redeliveries(LAWFUL["lost, and run by another"]) == pytest.approx([10.1])
    assert redeliveries(LAWFUL["nobody knows whether it was acknowledged"]) == []
    assert redeliveries(LAWFUL["it was not, and came back"]) == pytest.approx([10.1])
    assert redeliveries(LAWFUL["done"]) == []
    assert redeliveries(history(published(), claimed(1)[:1], killed(1))) == []


def test_a_percentile_is_a_value_that_occurred() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([3.0, 1.0], 0.5) == 1.0
