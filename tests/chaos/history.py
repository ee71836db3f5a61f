"""What happened to every job, and the rules of docs/contract.md that such a history must keep.

Owns: the events of a history, and one pure function for each rule, which returns what breaks it.
Must never: know how a history was made: it may be of any broker, or made up by a test.
Called by: the chaos tests; `test_history.py` shows that each rule finds what breaks it.

Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share. `invoke` is when a
call left, `ok` when it was answered with success, `fail` when it was answered that nothing
happened, `gone` that the job is over, where an earlier answer to the same was lost. An `invoke`
that nothing follows was cut short by a death or a lost answer, and may have taken effect.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Literal

from msgspec import Struct

Op = Literal["publish", "claim", "extend", "ack", "nack", "release", "dead", "kill", "call"]
Type = Literal["invoke", "ok", "fail", "gone"]
ENDS = ("ack", "nack", "release", "dead")

NO_JOB = -1
DRIFT = 0.01
"""How much faster than another a clock may go: what is held is held for 1 % less."""

LATE_SECONDS = 1.0
"""How long after the end of a dead holder's lease its job is granted again at the latest."""


class Event(Struct, frozen=True, gc=False):
    """One call, for one job, by one process; job -1 is of a claim that found nothing.

    `seconds`: of a claim and an extension, how long the lease lasts; of a nack and a release, the
    delay; of a publish, the due time on the wall clock; of a `call`, which is any that was slow,
    how long it took. `wall` is that clock at the event.
    """

    op: Op
    type: Type
    t: float
    proc: str
    job: int = NO_JOB
    fence: int = 0
    attempt: int = 0
    seconds: float = 0.0
    wall: float = 0.0


class History(Struct, frozen=True):
    """All events, in order of time, and what the store lists in the end, by state."""

    events: list[Event]
    live: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()

    def of(self, op: Op, *types: Type) -> Iterator[Event]:
        """Yield the events of an operation."""
        return (e for e in self.events if e.op == op and (not types or e.type in types))

    def jobs(self, op: Op, *types: Type) -> set[int]:
        """Return the jobs of an operation."""
        return {event.job for event in self.of(op, *types)}

    def story(self, job: int) -> str:
        """Tell what happened to a job, and of every call that was slow beside it."""
        told = [event for event in self.events if event.job == job]
        began, ended = told[0].t, told[-1].t
        slow = [event for event in self.of("call") if began <= event.t <= ended + event.seconds]
        told = sorted([*told, *slow], key=lambda event: event.t)
        return f"job {job}" + "".join(
            f"\n{e.t - began:8.3f} {e.op} {e.type}, process {e.proc}, fence {e.fence},"
            f" attempt {e.attempt}, {e.seconds:.3f} s"
            for e in told
        )

    def by_job(self, ops: Iterable[str]) -> dict[int, list[Event]]:
        """Return the events of some operations, by job."""
        found: dict[int, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.op in ops:
                found[event.job].append(event)
        found.pop(NO_JOB, None)
        return found


def rule_01_no_loss(history: History) -> list[str]:
    """A job whose publish was confirmed is done, dead or live."""
    ended = history.jobs("ack", "invoke") | history.dead | history.live
    lost = sorted(history.jobs("publish", "ok") - ended)
    return [f"rule 1: {len(lost)} jobs are lost: {lost[:10]}"] if lost else []


def rule_02_no_invention(history: History) -> list[str]:
    """What is granted was published before."""
    known = {NO_JOB}
    found = []
    for event in history.events:
        if event.op == "publish" and event.type == "invoke":
            known.add(event.job)
        elif event.op == "claim" and event.type == "ok" and event.job not in known:
            found.append(f"rule 2: job {event.job} was granted and never published")
    return found


def rule_08_one_holder(history: History) -> list[str]:
    """The times in which two holders surely had one job never overlap."""
    holds = sorted(_holds(history))
    return [
        f"rule 8: job {one[0]} was held with fence {one[3]} until {one[2]:.3f} and with fence"
        f" {other[3]} from {other[1]:.3f}"
        for one, other in pairwise(holds)
        if one[0] == other[0] and other[1] < one[2]
    ]


def rule_09_fences(history: History) -> list[str]:
    """Fences grow with every grant, and nothing is applied with an old one.

    A grant may be heard of late, as by a process that was stopped meanwhile: what counts is what
    had been granted when it was asked for.
    """
    found = []
    for job, events in history.by_job(("claim", *ENDS)).items():
        granted: set[int] = set()
        asked: dict[tuple[str, int], int] = {}  # which call, and the newest fence when it left
        for event in events:
            call = "claim" if event.op == "claim" else "end", event.fence
            newest = max(granted, default=0)
            if event.type == "invoke":
                asked[call] = newest
            elif event.type == "ok" and event.op == "claim":
                if event.fence in granted or event.fence < asked.get(call, 0):
                    found.append(f"rule 9: job {job} got fence {event.fence} after {newest}")
                granted.add(event.fence)
            elif event.type == "ok" and asked.get(call, 0) > event.fence:
                found.append(f"rule 9: the {event.op} of job {job} with the old fence was applied")
    return found


def rule_10_no_resurrection(history: History) -> list[str]:
    """What was acknowledged, or given up on, is not granted again."""
    over: set[int] = set()
    asked: dict[tuple[str, int], bool] = {}  # who asked for a job when it was over already
    found = []
    for event in history.events:
        if event.op in ("ack", "dead") and event.type == "ok":
            over.add(event.job)
        elif event.op == "claim" and event.type == "invoke":
            asked[event.proc, event.job] = event.job in over
        elif event.op == "claim" and asked.get((event.proc, event.job)):
            found.append(f"rule 10: job {event.job} was over, and granted again")
    return found


def rule_16_one_place(history: History) -> list[str]:
    """In the end every job is in one of done, dead and live, and nothing else is there."""
    places = {
        "done": history.jobs("ack", "ok"),
        "dead": set(history.dead),
        "live": set(history.live),
    }
    names = list(places)
    found = [
        f"rule 16: jobs are {one} and {other}: {sorted(both)[:10]}"
        for at, one in enumerate(names)
        for other in names[at + 1 :]
        if (both := places[one] & places[other])
    ]
    strange = (places["dead"] | places["live"]) - history.jobs("publish", "invoke")
    return found + ([f"rule 16: nobody published {sorted(strange)[:10]}"] if strange else [])


def rule_17_never_early(history: History) -> list[str]:
    """Nothing is granted before its due time, or before the delay of its return is over."""
    due = {event.job: event.seconds for event in history.of("publish", "invoke")}
    returned: dict[int, float] = {}
    asked: dict[int, float] = {}
    found = []
    for event in history.events:
        if event.op in ("nack", "release") and event.type == "invoke":
            asked[event.job] = event.t + event.seconds
        elif event.op in ("nack", "release") and event.type == "ok":
            returned[event.job] = asked[event.job]
        elif event.op == "claim" and event.type == "ok":
            if event.wall < due.get(event.job, 0.0) - 0.001:
                found.append(f"rule 17: job {event.job} was granted before it was due")
            if event.t < returned.pop(event.job, -math.inf) - 0.001:
                found.append(f"rule 17: job {event.job} was granted before its delay was over")
    return found


def rule_18_effects(history: History, counts: Mapping[int, int], most: int | None) -> list[str]:
    """A job that is done has had its effect; none has had it more than `most` times, if any is."""
    missing = sorted(history.jobs("ack", "ok") - counts.keys())
    often = sorted(job for job, count in counts.items() if most is not None and count > most)
    strange = sorted(counts.keys() - history.jobs("publish", "invoke"))
    found = {
        f"without effect: {missing[:10]}": missing,
        f"with more than {most} effects: {often[:10]}": often,
        f"that nobody published had an effect: {strange[:10]}": strange,
    }
    return [f"rule 18: {len(jobs)} jobs {text}" for text, jobs in found.items() if jobs]


class Orphan(Struct, frozen=True, gc=False):
    """A job that a killed process held; `asked_at`, `again_at`: the claim that got it then, or inf.

    They are when that claim left and when it was answered.
    """

    job: int
    killed_at: float
    asked_at: float
    again_at: float


def orphans(history: History) -> list[Orphan]:
    """Return the jobs of killed processes.

    One whose end was on its way at the kill counts only if it was granted again.
    """
    kills = {event.proc: event.t for event in history.of("kill")}
    found = []
    for job, events in history.by_job(("claim", *ENDS)).items():
        grants = [event for event in events if event.op == "claim" and event.type == "ok"]
        left = {(e.proc, e.fence): e.t for e in events if e.op == "claim" and e.type == "invoke"}
        ended = {(e.proc, e.fence) for e in events if e.op in ENDS and e.type == "ok"}
        asked = {(e.proc, e.fence) for e in events if e.op in ENDS and e.type == "invoke"}
        for grant, again in pairwise([*grants, None]):
            who = grant.proc, grant.fence
            if grant.proc not in kills or who in ended:
                continue
            if again is not None:
                asked_at = left[again.proc, again.fence]
                found.append(Orphan(job, kills[grant.proc], asked_at, again.t))
            elif who not in asked:
                found.append(Orphan(job, kills[grant.proc], math.inf, math.inf))
    return found


def redeliveries(history: History) -> list[float]:
    """Return after how many seconds each orphan was granted again."""
    return [orphan.again_at - orphan.killed_at for orphan in orphans(history)]


def rule_23_redelivery(history: History, lease_seconds: float) -> list[str]:
    """No claim that leaves a second after the end of its lease passes an orphan over.

    It does if it is granted nothing, or a job that was published later. So the rule asks nothing of
    a machine on which no worker is free for so long, and all of one on which some are.
    """
    looks = _looks(history)
    found = []
    for orphan in orphans(history):
        late_at = orphan.killed_at + lease_seconds + LATE_SECONDS
        first, end = bisect_left(looks, (late_at,)), bisect_left(looks, (orphan.asked_at,))
        passed = [
            left_at
            for left_at, answered_at, newest in looks[first:end]
            if answered_at < orphan.asked_at and newest > orphan.job
        ]
        if passed:
            after = passed[0] - orphan.killed_at
            found.append(
                f"rule 23: job {orphan.job} was passed over {after:.2f} s after its holder's death"
            )
        elif math.isinf(orphan.again_at):
            found.append(f"rule 23: job {orphan.job} was never granted again")
    return found


RULES: list[Callable[[History], list[str]]] = [
    rule_01_no_loss,
    rule_02_no_invention,
    rule_08_one_holder,
    rule_09_fences,
    rule_10_no_resurrection,
    rule_16_one_place,
    rule_17_never_early,
]


def check(history: History, lease_seconds: float) -> list[str]:
    """Return what breaks a rule, in all of them."""
    broken = [text for rule in RULES for text in rule(history)]
    return broken + rule_23_redelivery(history, lease_seconds)


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of them do not exceed; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0


def _holds(history: History) -> Iterator[tuple[int, float, float, int]]:
    """Yield job, from, until and fence of each hold, for as long as nobody can doubt it."""
    for job, events in history.by_job(("claim", "extend", *ENDS)).items():
        asked: dict[tuple[str, str], float] = {}
        begun: dict[int, float] = {}
        until: dict[int, float] = {}
        ended: set[int] = set()
        for event in events:
            if event.type == "invoke":
                asked[event.proc, event.op] = event.t
                if event.op in ENDS and event.fence in until:
                    until[event.fence] = min(until[event.fence], event.t)
                    ended.add(event.fence)
            elif event.type == "ok" and event.op not in ENDS and event.fence not in ended:
                lasts = asked[event.proc, event.op] + event.seconds * (1 - DRIFT)
                begun.setdefault(event.fence, event.t)
                until[event.fence] = max(until.get(event.fence, 0.0), lasts)
        for fence, since in begun.items():
            if until[fence] > since:
                yield job, since, until[fence], fence


def _looks(history: History) -> list[tuple[float, float, float]]:
    """Return of each claim when it left, when it was answered, and the newest job that it got."""
    left: dict[str, float] = {}
    found: dict[tuple[float, str], tuple[float, float]] = {}
    for event in history.of("claim"):
        if event.type == "invoke":
            left[event.proc] = event.t
        else:
            key = left[event.proc], event.proc
            job = math.inf if event.job == NO_JOB else float(event.job)
            found[key] = event.t, max(job, found.get(key, (0.0, 0.0))[1])
    return sorted((left_at, *answer) for (left_at, _), answer in found.items())
