"""What a run came to, in one line, and which rules of docs/contract.md it broke.

Owns: the figures of a run, what is allowed of each, and the table.
Must never: know what was done in the run.
Called by: `run.py`.
"""

import math
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from dibs.brokers.contract import CALL_LIMIT_SECONDS
from tests.chaos.history import (
    NO_JOB,
    Event,
    History,
    rule_02_no_invention,
    rule_08_one_holder,
    rule_09_fences,
    rule_10_no_resurrection,
    rule_17_never_early,
)
from tests.chaos.recorder import SLOW_SECONDS
from tests.faults.field import Field

HEAL_SECONDS = 10.0


class Verdict(Struct, frozen=True):
    """The figures of a run; `harm` is how often harm was done.

    `ran_twice` jobs had their effect more than once, and `stored_again` were over before the retry
    of a publish whose confirm was lost, or were put back as a copy whose confirm was: both are
    allowed.
    """

    harm: int
    jobs: int
    lost: int
    resurrected: int
    stale: int
    longest_call: float
    heal_seconds: float
    ran_twice: int
    stored_again: int
    broken: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken


HEADING = (
    *("broker", "scenario", "harm", "jobs", "lost", "resurrected", "stale accepted"),
    *("longest call", "healed after", "ran twice", "stored again", ""),
)


def line(ground: str, scenario: str, found: Verdict) -> tuple[str, ...]:
    """Return a row of the table."""
    counts = found.harm, found.jobs, found.lost, found.resurrected, found.stale
    slow = found.longest_call or SLOW_SECONDS
    return (
        ground,
        scenario,
        *(f"{count:,}" for count in counts),
        f"{slow:.2f} s" if found.longest_call else f"< {slow:.2f} s",
        f"{found.heal_seconds:.2f} s",
        f"{found.ran_twice:,}",
        f"{found.stored_again:,}",
        "ok" if found.good else "BROKEN",
    )


def judge(
    field: Field, harm: int, severs: bool, heal_seconds: float, grace_seconds: float
) -> Verdict:
    """Hold the history of a run to the rules; `severs` is that of its scenario."""
    load = field.load
    assert load is not None
    events = field.events
    counts = field.effect.counts()
    acked = {event.job for event in events if event.op == "ack"}
    dead = {event.job for event in events if event.op == "dead"}
    done = {event.job for event in events if event.op == "ack" and event.type == "ok"}
    lost = (load.confirmed - acked - dead) | (done - counts.keys())
    again = _stored_again(events)
    if severs and not field.capabilities.leases_outlive:
        again |= _copied(events)
    aside = _aside(field, events, again)
    held = History([event for event in events if event.job not in aside])
    fences = rule_09_fences(held)
    stale = [text for text in fences if "old fence" in text]
    resurrected = rule_10_no_resurrection(held)
    calls = [event for event in events if _is_call(event, field.stops)]
    hung = _hung(events, calls, field.ground.lease_seconds / 6, grace_seconds)
    said = {
        f"lost: {sorted(lost)[:10]}": lost,
        f"given up: {sorted(dead)[:10]}": dead,
        f"the workers ended with {field.exits}": any(field.exits),
        f"calls took {[round(call.seconds, 2) for call in hung][:5]} s": hung,
        f"a worker took no job for {heal_seconds:.1f} s": heal_seconds > HEAL_SECONDS,
    }
    return Verdict(
        harm=harm,
        jobs=len(load.confirmed),
        lost=len(lost),
        resurrected=len(resurrected),
        stale=len(stale),
        longest_call=max((call.seconds for call in calls), default=0.0),
        heal_seconds=heal_seconds,
        ran_twice=sum(count > 1 for count in counts.values()),
        stored_again=len(again),
        broken=(
            *(text for text, wrong in said.items() if wrong),
            *resurrected,
            *fences,
            *rule_02_no_invention(held),
            # Where the broker is no judge of fences, a hold ends with a connection, too.
            *(rule_08_one_holder(held) if field.capabilities.native_fence else ()),
            *rule_17_never_early(held),
        ),
    )


def _aside(field: Field, events: Sequence[Event], again: set[int]) -> set[int]:
    """Return the jobs that may be two by now, as the broker's capabilities say.

    No rule about a single job is asked of these; none of them may be lost either.
    """
    found: set[int] = set()
    if field.capabilities.dedupe_window_seconds == 0:
        found |= again
    if not field.ground.dedupes:
        found |= _retried(events)
    if not field.capabilities.atomic_retry:
        found |= _returned_unanswered(events)
    return found


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as text, each column as wide as it must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(c.ljust(w) for c, w in row).rstrip() for row in cells)


def _retried(events: Sequence[Event]) -> set[int]:
    """Return the jobs whose publish was tried more than once."""
    tries = Counter(e.job for e in events if (e.op, e.type) == ("publish", "invoke"))
    return {job for job, count in tries.items() if count > 1}


def _returned_unanswered(events: Sequence[Event]) -> set[int]:
    """Return the jobs whose return was asked for and not answered, or not the first time."""
    asked: set[tuple[int, int, str]] = set()
    again: set[int] = set()
    for event in events:
        key = event.job, event.fence, event.proc
        if event.op not in ("nack", "release"):
            continue
        if event.type != "invoke":
            asked.discard(key)
        elif key in asked:
            again.add(event.job)
        else:
            asked.add(key)
    return again | {job for job, _, _ in asked}


def _stored_again(events: Sequence[Event]) -> set[int]:
    """Return the jobs whose publish was tried again until after their end (rule 5).

    Where an id is forgotten at its job's end, that is another job.
    """
    ended: set[int] = set()
    again: set[int] = set()
    for event in events:
        if event.op == "ack":
            ended.add(event.job)
        elif (event.op, event.type) == ("publish", "ok") and event.job in ended:
            again.add(event.job)
    return again & _retried(events)


def _copied(events: Sequence[Event]) -> set[int]:
    """Return the jobs that were granted twice with one fence, and so were two; not three.

    Where a lease ends with its connection, what nobody was granted is put back as a copy, and
    whoever loses the copy's confirm keeps the original, too. A job that came back to life would
    have a higher fence.
    """
    grants = Counter((e.job, e.fence) for e in events if (e.op, e.type) == ("claim", "ok"))
    return {job for (job, _), count in grants.items() if count == 2 and job != NO_JOB}


def _hung(
    events: Sequence[Event], calls: Sequence[Event], hurried: float, grace_seconds: float
) -> list[Event]:
    """Return the calls that outlasted their time-out: it is shorter for who has seen the leases."""
    seen_at: dict[str, float] = {}
    for event in events:
        if event.op == "claim" and event.type == "ok" and event.job != NO_JOB:
            seen_at.setdefault(event.proc, event.t)

    def limit(call: Event) -> float:
        has_seen = call.t - call.seconds > seen_at.get(call.proc, math.inf)
        return min(CALL_LIMIT_SECONDS, hurried) if has_seen else CALL_LIMIT_SECONDS

    return [call for call in calls if call.seconds > limit(call) + grace_seconds]


def _is_call(event: Event, stops: Sequence[tuple[str, float, float]]) -> bool:
    """Whether an event is a call that took its time by itself, and not in a stopped process."""
    if event.op != "call":
        return False
    began = event.t - event.seconds
    return all(event.proc != who or event.t < since or began > to for who, since, to in stops)
