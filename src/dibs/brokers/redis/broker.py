"""The Redis broker: the contract's verbs, each one script that the server runs as one step.

Owns: how messages, leases and outcomes are put for the scripts, and what their answers mean.
Must never: decide here on what the server has: it may be other by the next call.
Called by: whoever holds a `Broker`; made by `open_url` and `open_redis`. What keys there are, and
what is in them, is said in `common.lua`.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import msgpack
from msgspec.structs import astuple, replace

from dibs.alike import Alike
from dibs.brokers import checks, contract
from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.contract import APPLIED, GONE, STALE, STORED
from dibs.brokers.ends import in_parts
from dibs.brokers.handed import claimed, taken
from dibs.brokers.redis.inspector import RedisInspector, leases_of, result_of
from dibs.brokers.redis.settings import LEVELS, Settings, findings, settings_of
from dibs.clock import Clock, system_randomness
from dibs.errors import BrokerError, BrokerRefused, BrokerUnavailable, PublishUnknown
from dibs.message import Ack, DeadLetter, Lease, Message, Nack, Release, Result, Settlement
from dibs.wires.limit import Limit
from dibs.wires.resp.address import Address, namespace_of
from dibs.wires.resp.bell import Bell
from dibs.wires.resp.link import Link, NoAnswer, scripts_in
from dibs.wires.resp.parts import parts_of

BATCH = 1_000  # moved by one script: some 5 ms, for which everybody else waits
SWEEPS = 20  # scripts that only move what fell due, before one grants what there is
ANSWERS = (APPLIED, contract.Applied(late=True), STALE, GONE)
Item = TypeVar("Item")
Answer = TypeVar("Answer")
FOLDER = Path(__file__).parent
COMMON = (FOLDER / "common.lua").read_text()
NOW = (FOLDER / "now.lua").read_text()
_encode = msgpack.Encoder().encode


class RedisBroker(contract.Broker):
    """Queues in one namespace of a Redis server."""

    capabilities = Capabilities(*LEVELS["everysec"], BATCH, 1 << 20, takes_ahead=True)

    def __init__(
        self, address: Address, prefix: str, *, clock: Clock, worker_id: bytes, now: str = NOW
    ) -> None:
        scripts, limit = scripts_in(FOLDER, now, COMMON), Limit(contract.CALL_LIMIT_SECONDS, clock)
        self._link = link = Link(address, namespace_of(prefix), clock, scripts, limit)
        # No two have one name: both would take what is handed over to it.
        self._bell = Bell(link.another(), (worker_id + system_randomness(4)).hex(), clock)
        self._awaited: set[bytes] = set()
        self._rung_for: set[str] = set()  # by the last claim; those of a lost answer too
        self._clock = clock
        self._turn = 0
        self._ahead_ms = 0  # the server's clock, of `boot_ms`, at most
        self.url = link.address.shown
        with limit.together():
            settings = settings_of(link)
            if settings.cluster:
                self._check(settings)  # nothing of it can be looked at
            self.created = not link.call("EXISTS", f"{link.namespace}queues")
        level, note = LEVELS[settings.fsync]
        self.capabilities = replace(self.capabilities, durability=level, durability_note=note)

    def declare(self, queues: Sequence[str]) -> None:
        """Note the queues' names, and check what the server is set to."""
        checks.queue_names(queues)
        with self._link.limit.together():
            self._check(settings_of(self._link))
            self._run("declare", *queues)

    def _check(self, settings: Settings) -> None:
        for found in findings(settings):
            if found.verdict == "bad":
                raise BrokerRefused(f"{self.url}: {found.what} is {found.found}: {found.advice}")

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        """Store messages, all that are no duplicates, in one step."""
        return checks.published(messages, self.capabilities, self._stored)

    def _stored(self, runs: list[Alike]) -> list[contract.Published]:
        arguments: list[Any] = []
        for run in runs:
            first, key = run.pattern, run.pattern.unique_key or ""
            arguments += (first.queue, first.priority, first.due_ms, first.visibility_timeout_ms)
            arguments += (key, len(run))
            for message in run:
                arguments += (message.id, _encode(message))
        try:
            duplicates = self._run("publish", *arguments)
        except NoAnswer as exc:
            raise PublishUnknown(str(exc)) from exc
        answers: list[contract.Published] = [STORED] * sum(map(len, runs))
        for number, holder in zip(duplicates[::2], duplicates[1::2], strict=True):
            answers[number] = contract.Duplicate(holder)
        return answers

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        """Grant what was handed over or is ready, to each queue its share; be rung for the rest."""
        asked, limit = limit, max(0, min(limit, BATCH))
        names = [name for name in dict.fromkeys(queues) if contract.QUEUE_NAME.fullmatch(name)]
        with self._link.limit.together():
            waiter = self._bell.hear()
            found = claimed(
                limit,
                lambda room: self._handed(names, room, waiter),
                lambda: self._granted(names, limit, waiter),
            )
        return contract.Claim(found.leases, 0) if len(found.leases) == limit < asked else found

    def _granted(self, names: Sequence[str], limit: int, waiter: str) -> contract.Claim:
        start, sent = self._turn % max(1, len(names)), self._clock.boot_ms()
        self._turn += 1
        turned = *names[start:], *names[:start]
        bell, left_out = self._bell, self._rung_for.difference(names)
        self._rung_for.update(names if waiter else ())
        asked = (limit, waiter, int(bell.is_idle), bell.lost, len(left_out), *left_out, *turned)
        more, now, next_ms, granted, states, wish = self._claimed(*asked)
        self._rung_for = set(names if waiter and len(granted) < limit else ())
        self._ahead_ms = now - sent
        self._bell.asked(wish)
        leases = leases_of(now, granted, states)
        self._link.limit.bear(leases)
        more = more or self._bell.lost  # the next claim gets what was told to a dead bell
        return contract.Claim(leases, 0 if more else None if next_ms < 0 else next_ms / 1_000)

    def _claimed(self, *asked: Any) -> Any:
        """Run a claim, and others first while more falls due than fits: it may be more urgent."""
        for _ in range(SWEEPS):
            answer = self._run("claim", 0, *asked)
            if answer[3] or not answer[0]:
                return answer
        return self._run("claim", 1, *asked)

    def _handed(self, names: Sequence[str], limit: int, waiter: str) -> list[Lease]:
        """Take what was handed over; what is not wanted is given back."""
        if not (notes := self._bell.handed):
            return []
        leases = [leases_of(int.from_bytes(note[:6]), [note[6:]], [])[0] for note in notes]
        now_ms = self._clock.boot_ms() + self._ahead_ms
        leases = taken(self, leases, names, limit, now_ms)
        notes.clear()
        self._link.limit.bear(leases)
        if 0 < len(leases) == limit:
            with contextlib.suppress(BrokerError):
                self._granted(names, 0, waiter)  # it has no room to be rung for
        return leases

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """End leases, a batch of them in one step; after an answer that is lost, none."""
        sizes = parts_of(settlements, BATCH)
        return self._in_batches("settle", settlements, sizes, _ends, ANSWERS.__getitem__)

    def extend(self, leases: Sequence[Lease]) -> list[contract.Extended]:
        """Renew leases, also those that ran out and were not granted again."""
        return self._in_batches("extend", leases, itertools.repeat(BATCH), _renewals, _extended)

    def _in_batches(
        self,
        verb: str,
        items: Sequence[Item],
        sizes: Iterator[int],
        put: Callable[[Sequence[Item]], Iterable[Any]],
        read: Callable[[int], Answer],
    ) -> list[Answer | contract.Unknown]:
        def step(batch: Sequence[Item]) -> Iterable[Answer]:
            return map(read, self._run(verb, *put(batch)))

        with self._link.limit.together():
            return in_parts(items, sizes.__next__, step, NoAnswer)

    def bell(self) -> int:
        """Return a descriptor that stays, whatever becomes of the connection behind it."""
        return self._bell.fileno()

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Say how messages ended, and be rung for the first of the others."""
        with self._link.limit.together():
            return self._ends_of(ids, self._bell.hear())

    def _ends_of(self, ids: Sequence[bytes], waiter: str) -> list[Result | None]:
        given_up = self._awaited - set(ids)
        answers: list[Result | None] = []
        awaited: set[bytes] = set()
        while len(answers) < len(ids) or given_up:
            room = BATCH - len(awaited)
            batch = ids[len(answers) : len(answers) + (room or BATCH)]
            if waiter:
                self._awaited |= set(batch)
            whose = waiter if room else ""
            ends = self._run("results", whose, len(given_up), *given_up, *batch)
            found = [result_of(*pair) for pair in zip(batch, ends, strict=True)]
            if room:
                awaited |= {id for id, end in zip(batch, found, strict=True) if end is None}
            answers += found
            given_up = set()
        self._awaited = awaited if waiter else set()
        return answers

    def inspector(self) -> RedisInspector:
        """Return the slow door."""
        return RedisInspector(self._link, self.capabilities)

    def idle(self) -> None:
        """Look after the bell; the server drops results by itself, and nothing else is left."""
        self._bell.check()

    def close(self) -> None:
        """Close the connections; who rings this one finds nobody there, and rings the next."""
        with self._link.limit.together():
            for _ in range(2):  # the first may learn that its bell is dead
                if self._bell.is_idle or self._bell.handed or self._bell.lost:
                    with contextlib.suppress(BrokerError):
                        self.claim((), 0)
        self._bell.close()
        self._link.close()

    def _run(self, verb: str, *arguments: Any) -> Any:
        try:
            return self._link.run(verb, *arguments)
        except BrokerUnavailable:
            self._bell.take_down()  # what ended the one connection may have ended the other
            raise


def _held(lease: Lease) -> bytes:
    """Return a lease as the server keeps it."""
    return lease.message.id + int(lease.receipt).to_bytes(8) + lease.fence.to_bytes(4)


def _extended(held_ms: int) -> contract.Extended:
    return contract.Held(held_ms / 1_000) if held_ms >= 0 else contract.Lost()


def _renewals(leases: Iterable[Lease]) -> Iterator[Any]:
    """Put leases for the script."""
    for lease in leases:
        message = lease.message
        yield from (message.queue, message.visibility_timeout_ms, _held(lease))


def _ends(settlements: Iterable[Settlement]) -> Iterator[Any]:
    """Put settlements for the script: runs of a kind and queue."""
    for (kind, queue), run in itertools.groupby(settlements, _kind):
        fields = [_fields(settlement) for settlement in run]
        yield from (kind, queue, len(fields))
        yield from itertools.chain.from_iterable(fields)


def _kind(settlement: Settlement) -> tuple[str, str]:
    outcome, queue = settlement.outcome, settlement.lease.message.queue
    if type(outcome) is Ack:
        if outcome.record is not None:
            return "record", queue
        return "keep" if outcome.keep_ms > 0 else "ack", queue
    return "dead" if isinstance(outcome, DeadLetter) else "back", queue


def _fields(settlement: Settlement) -> tuple[Any, ...]:
    held, outcome = _held(settlement.lease), settlement.outcome
    if isinstance(outcome, Ack):
        record = outcome.record
        if outcome.keep_ms <= 0 and record is None:
            return (held,)
        value = b"" if outcome.result is None else b"=" + outcome.result
        kept = held, min(outcome.keep_ms, MAX_DURATION_MS), value
        return kept if record is None else (*kept, record.id, min(record.keep_ms, MAX_DURATION_MS))
    error = "" if isinstance(outcome, Release) else json.dumps(astuple(outcome.error))
    if isinstance(outcome, DeadLetter):
        return held, outcome.reason, outcome.charge, error
    delay = max(0, min(outcome.delay_ms, MAX_DURATION_MS))
    return held, delay, outcome.charge if isinstance(outcome, Nack) else "nothing", error
