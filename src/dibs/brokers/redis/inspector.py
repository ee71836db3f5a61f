"""What lies in the namespace, for people and dashboards, and what people do about it.

Must never: run a script that holds the server up for long; whatever may be much goes in steps.
Called by: `RedisBroker`, which also reads messages and ends as this file does.
"""

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, msgpack

from dibs.brokers import checks
from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import GONE, REDRIVEN, Answered, Duplicate, Finding, Inspector, Page
from dibs.brokers.redis.settings import findings, settings_of
from dibs.message import Attempt, Charge, Error, JobView, Lease, Message, QueueCounts, Result
from dibs.states import State
from dibs.wires.resp.link import Link

TOGETHER = 100  # queues counted, or jobs shown, by one script


class Past(Struct, frozen=True, array_like=True):
    """What a message has been through: the fields of a state in `common.lua`."""

    fence: int = 0
    failures: int = 0
    crashes: int = 0
    lost: int = 0
    since_ms: int = 0
    overdue: int = 0
    reason: str | None = None
    error: str = ""


UNTOUCHED = Past()
_message = msgpack.Decoder(Message).decode
_past = msgpack.Decoder(Past).decode
_attempts = msgpack.Decoder(list[tuple[int, int, Charge, str]]).decode


class RedisInspector(Inspector):
    """Each look at some jobs is one script, and so is each move."""

    def __init__(self, link: Link, capabilities: Capabilities) -> None:
        self._link = link
        self._capabilities = capabilities

    def queues(self) -> list[QueueCounts]:
        """Count every queue, by name."""
        with self._link.limit.together():
            self._sweep()
            members = self._link.call("SMEMBERS", f"{self._link.namespace}queues")
            names = sorted(name.decode() for name in members)
            found = self._in_parts("count", names)
        return [
            QueueCounts(name, ready, later, held, dead, None if ms < 0 else ms / 1_000, paused == 1)
            for name, (ready, later, held, dead, ms, paused) in zip(names, found, strict=True)
        ]

    def findings(self) -> list[Finding]:
        """Return what the server is set to."""
        with self._link.limit.together():
            return findings(settings_of(self._link))

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> Page:
        """List the jobs of one state, queue after queue; the dead of all queues are one list."""
        limit = max(0, limit)
        place = [] if after is None else bytes.fromhex(after).split(b"|", 2)
        with self._link.limit.together():
            self._sweep()
            found = self._link.run("list", state.value, queue or "", limit + 1, *place)
            shown = [member[-16:] for member in found[2::3]][:limit]
            views = self._views(shown)
        following = None
        if 0 < len(shown) < len(found) / 3:
            following = b"|".join(found[3 * limit - 3 : 3 * limit]).hex()
        # What has moved on since it was listed is not shown where it was.
        return Page([view for view in views if view and view.state is state], following)

    def job(self, id: bytes) -> JobView | None:
        """Look one job up."""
        with self._link.limit.together():
            self._sweep()
            return self._views([id])[0]

    def redrive(self, ids: Sequence[bytes]) -> list[Answered]:
        """Send dead letters back, all in one step, and ring for them."""
        checks.how_many(len(ids), self._capabilities)
        answers = zip(ids, self._link.run("redrive", *ids), strict=True)
        return [
            REDRIVEN if not answer else GONE if answer == id else Duplicate(answer)
            for id, answer in answers
        ]

    def discard(self, ids: Sequence[bytes]) -> int:
        """Remove dead letters, all in one step."""
        checks.how_many(len(ids), self._capabilities)
        return int(self._link.run("discard", *ids))

    def purge(self, queue: str) -> int:
        """Remove what waits, a step at a time, up to what was published last before the first."""
        self._sweep()
        last: int | str = ""
        total, newer, more = 0, 0, True
        while more:
            removed, last, newer, more = self._link.run("purge", queue, last, newer)
            total += removed
        return total

    def pause(self, queue: str) -> None:
        """Note it on the server, where the next claim of any worker finds it."""
        checks.queue_names([queue])
        self._link.run("pause", queue, 1)

    def resume(self, queue: str) -> None:
        """Take the note away, and wake a worker for what has waited."""
        self._link.run("pause", queue, 0)

    def _sweep(self) -> None:
        """Let time do what it does at claims, so that a look finds what a claim would."""
        while self._link.run("sweep"):
            pass

    def _views(self, ids: Sequence[bytes]) -> list[JobView | None]:
        return [_view(found) for found in self._in_parts("look", ids)]

    def _in_parts(self, verb: str, asked: Sequence[Any]) -> list[Any]:
        """Run a script for so many at a time; return its answers, one for each."""
        parts = [asked[at : at + TOGETHER] for at in range(0, len(asked), TOGETHER)]
        return [found for part in parts for found in self._link.run(verb, *part)]


def message_of(stored: bytes) -> Message:
    """Read a message as it is stored: after its head, which ends with its queue."""
    return _message(stored[20 + stored[19] :])


def leases_of(now: int, granted: list[bytes], states: list[Any]) -> list[Lease]:
    """Return leases of what was granted; `states` are of those that had been granted before."""
    before = dict(zip(states[::2], states[1::2], strict=True))
    leases = []
    for number, stored in enumerate(granted):
        message, past = message_of(stored), past_of(before.get(number))
        expiry_ms = now + message.visibility_timeout_ms
        counters = (past.fence + 1, past.failures, past.crashes, past.lost)
        leases.append(Lease(message, *counters, expiry_ms, int.from_bytes(stored[:8])))
    return leases


def past_of(packed: bytes | None) -> Past:
    """Read what a message has been through."""
    return UNTOUCHED if packed is None else _past(packed)


def result_of(id: bytes, end: list[bytes | None] | None) -> Result | None:
    """Read how a message ended: not yet; in something not kept; in a result; as a dead letter."""
    if end is None:
        return None
    if not end:
        return Result(id, None, kept=False)
    if len(end) == 1:
        return Result(id, end[0][1:] if end[0] else None)
    past = past_of(end[0])
    return Result(id, None, past.reason, _error(past.error), _noted(end[1]))


def _view(found: Any) -> JobView | None:
    if found is None:
        return None
    stored, packed, attempts, state, ends_in, now = found
    past = past_of(packed)
    since = past.since_ms or int.from_bytes(stored[8:14])
    return JobView(
        message_of(stored),
        State(state.decode()),
        past.fence + (state == b"in flight"),
        past.failures,
        past.crashes,
        past.lost,
        since_ms=since if ends_in < 0 else None,
        until_ms=now + ends_in if ends_in >= 0 else None,
        reason=past.reason,
        error=_error(past.error) if past.reason else None,
        attempts=_noted(attempts),
    )


def _error(text: str) -> Error:
    return Error(*json.loads(text))


def _noted(packed: bytes | None) -> tuple[Attempt, ...]:
    kept = _attempts(packed) if packed else ()
    return tuple(Attempt(fence, at, charge, _error(error)) for fence, at, charge, error in kept)
