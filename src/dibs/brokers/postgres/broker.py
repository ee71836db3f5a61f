"""The PostgreSQL broker: the contract's verbs, each the call of one function of the schema.

Must never: hold SQL, or take two transactions for one move. What the functions do is said in
migrations/*.sql. Called by: whoever holds a `Broker`; made by `open_url`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from dibs.alike import Alike
from dibs.brokers import checks, contract
from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.contract import APPLIED, GONE, STALE, STORED, UNKNOWN
from dibs.brokers.ends import other_end
from dibs.brokers.postgres.inspector import (
    COLUMNS,
    PostgresInspector,
    message_of,
    result_of,
    stored_field,
)
from dibs.clock import Clock
from dibs.errors import BrokerError, OptionError, PublishUnknown
from dibs.message import Ack, DeadLetter, Lease, Message, Result, Settlement
from dibs.wires.libpq.arrays import BYTEA, INT4, INT8, TEXT, UUID, Array, array, array_of, element
from dibs.wires.libpq.listener import Listener
from dibs.wires.libpq.session import Call, Row, Session, Unanswered

BATCH = 5_000
LOOK_BACK_SECONDS = 0.5
"""How long a claim that is granted all it asks for may start where the last one ended."""
ANSWERS: dict[str, contract.Settled] = {
    "applied": APPLIED,
    "late": contract.Applied(late=True),
    "stale": STALE,
    "gone": GONE,
}


class PostgresBroker(contract.Broker):
    """Queues in one schema of a database, for processes anywhere."""

    capabilities = Capabilities(
        "D2", "synchronous_commit=on, fsync=on", BATCH, 1 << 20, transactional_publish=True
    )

    def __init__(self, session: Session, bell: Listener, clock: Clock, *, created: bool) -> None:
        self.url = session.shown
        self.created = created
        _, self._store, level, note = session.call("about")[0]
        self.capabilities = replace(self.capabilities, durability=level, durability_note=note)
        self._session = session
        self._bell = bell
        self._clock = clock
        self._floors: dict[str, int] = {}
        self._look_back_at = 0.0
        self._was_full = False
        self._turn = 0

    def declare(self, queues: Sequence[str]) -> None:
        """Note the queues' names, and check what the server is set to."""
        checks.queue_names(queues)
        with self._session.limit.together():
            PostgresInspector(self._session).check()
            self._session.call("declare_queues", array_of(TEXT, queues))

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        """Store messages, all in one statement."""
        return checks.published(messages, self.capabilities, self._stored)

    def _stored(self, runs: list[Alike]) -> list[contract.Published]:
        rung = array_of(TEXT, sorted({run.pattern.queue for run in runs}))
        try:
            found = self._session.run(_publish_calls(runs), after=("ring", rung, None))
        except Unanswered as error:
            raise PublishUnknown(str(error)) from error
        answers: list[contract.Published] = [STORED] * sum(map(len, runs))
        for place, holder in (row for rows in found for row in rows):
            answers[place] = UNKNOWN if holder is None else contract.Duplicate(holder)
        return answers

    def publish_on(
        self, connection: contract.CallersConnection, messages: Sequence[Message]
    ) -> list[contract.Published]:
        """Store messages in the caller's transaction, each by one statement on its connection."""
        schema = self._session.schema
        there = f"SELECT to_regproc('\"{schema}\".publish_here') IS NOT NULL"
        if connection.dialect != "postgresql" or connection.rows(there) != [(True,)]:
            raise OptionError(f"`connection` does not lead to the queues of {self.url}")
        return [self._stored_on(connection, message) for message in messages]

    def _stored_on(
        self, connection: contract.CallersConnection, message: Message
    ) -> contract.Published:
        if why := checks.refusal(message, self.capabilities):
            return contract.Refused(why)
        fields = [stored_field(name, message) for name in COLUMNS]
        task, args = stored_field("task", message), message.args.hex()
        values = [self._store.hex(), message.id.hex(), message.queue, task, args, *fields]
        places = ", ".join("?" * len(values))
        sql = f'SELECT "{self._session.schema}".publish_here({places})'
        ((answer,),) = connection.rows(sql, *values)
        if answer == "elsewhere":
            raise OptionError(f"`connection` leads to queues of that name that are not {self.url}")
        named: dict[str, contract.Published] = {"stored": STORED, "ended": UNKNOWN}
        return named.get(answer) or contract.Duplicate(bytes.fromhex(answer.replace("-", "")))

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        """Grant what is ready; whoever is granted too little first said that it waits."""
        names = [q for q in dict.fromkeys(queues) if contract.QUEUE_NAME.fullmatch(q)]
        with self._session.limit.together():
            return self._claimed(names, max(0, min(limit, BATCH)))

    def _claimed(self, names: Sequence[str], limit: int) -> contract.Claim:
        channel = self._bell.channel()
        # A claim that mostly gets all it asks for need not say that it waits before it knows.
        found = self._granted(names, limit, channel, arm=not self._was_full)
        self._was_full = len(found.leases) == limit
        if self._was_full or channel is None or self._bell.armed:
            return found
        if found.leases:
            return contract.Claim(found.leases, 0)
        # Looked again once it is armed: what was published in between has rung nobody.
        return self._granted(names, limit, channel, arm=True)

    def _granted(
        self, names: Sequence[str], limit: int, channel: str | None, *, arm: bool
    ) -> contract.Claim:
        self._turn += 1
        start = self._turn % max(len(names), 1)
        names = [*names[start:], *names[:start]]
        now = self._clock.monotonic()
        if now >= self._look_back_at:
            self._floors.clear()
            self._look_back_at = now + LOOK_BACK_SECONDS
        asked = array_of(TEXT, names)
        floors = array_of(INT8, [self._floors.get(name, -1) for name in names])
        claim = ("claim", asked, floors, limit, channel)
        wanted = frozenset(names)
        arms = arm and channel is not None and limit > 0 and self._bell.armed != wanted
        before = ("arm", channel, asked) if arms else None
        ((*rows, last),) = self._session.run([claim], before=before)
        armed, wait, _ = last[17:]
        if len(rows) == limit:
            self._bell.disarm(rung=not armed)
            wait = 0
        elif not armed:
            self._bell.armed = frozenset()
        elif arms:
            self._bell.armed = wanted
        # They come in order: of a queue, the last one of priority 0 is the highest.
        self._floors |= {row[1]: row[19] for row in rows if row[5] == 0}
        leases = [_lease(row) for row in rows]
        self._session.limit.bear(leases)
        return contract.Claim(leases, None if wait is None else wait / 1_000)

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """End leases: acknowledgements together, everything else one by one."""
        if not settlements:
            return []
        places = range(len(settlements))
        if len({(s.lease.receipt, s.lease.message.id) for s in settlements}) < len(settlements):
            groups = [[place] for place in places]  # the first of two counts: one after the other
        else:
            order = sorted(places, key=lambda place: settlements[place].lease.message.id)
            acks = [place for place in order if type(settlements[place].outcome) is Ack]
            others = [place for place in order if type(settlements[place].outcome) is not Ack]
            groups = [group for group in (acks, others) if group]
        calls = [_end([settlements[place] for place in group]) for group in groups]
        try:
            found = self._session.run(calls, after=_ring_for(settlements))
        except Unanswered:
            return [UNKNOWN] * len(settlements)
        answers: list[contract.Settled] = [APPLIED] * len(settlements)
        for group, rows in zip(groups, found, strict=True):
            for place, answer in rows:
                answers[group[place - 1]] = ANSWERS[answer]
        return answers

    def extend(self, leases: Sequence[Lease]) -> list[contract.Extended]:
        """Renew leases, also those that ran out and were not granted again."""
        if not leases:
            return []
        own = {(lease.message.id, lease.receipt, lease.fence): lease for lease in leases}
        keys = sorted(own)
        lasts = array_of(INT8, [own[key].message.visibility_timeout_ms for key in keys])
        try:
            rows = self._session.call("extend", *_receipts([own[key] for key in keys]), lasts)
        except Unanswered:
            return [UNKNOWN] * len(leases)
        held = {keys[place - 1]: contract.Held(ms / 1_000) for place, ms in rows}
        asked = [(lease.message.id, lease.receipt, lease.fence) for lease in leases]
        return [held.get(key, contract.Lost()) for key in asked]

    def bell(self) -> int:
        """Return the descriptor behind which the server's notifications come."""
        return self._bell.fileno()

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Say how messages ended, and be rung for the others."""
        with self._session.limit.together():
            return self._results_or_rings(ids)

    def _results_or_rings(self, ids: Sequence[bytes]) -> list[Result | None]:
        channel = self._bell.channel()
        found = self._results(ids)
        unfinished = [id for id, answer in zip(ids, found, strict=True) if answer is None][:BATCH]
        if channel is None or set(unfinished) == self._bell.awaited:
            return found
        self._session.call("await_ends", channel, array_of(UUID, unfinished))
        self._bell.awaited = frozenset(unfinished)
        # Once more: what ended before the wish was known has rung nobody.
        return self._results(ids) if unfinished else found

    def _results(self, ids: Sequence[bytes]) -> list[Result | None]:
        answers: list[Result | None] = [None] * len(ids)
        for place, *row in self._session.call("results", array_of(UUID, ids)) if ids else ():
            answers[place - 1] = result_of(ids[place - 1], row)
        return answers

    def inspector(self) -> contract.Inspector:
        """Return the slow door."""
        return PostgresInspector(self._session)

    def idle(self) -> None:
        """Drop results whose time is over."""
        self._session.call("prune_results", 1_000)

    def close(self) -> None:
        """Close both connections; who waits for rings waits no more."""
        channel = self._bell.close()
        try:
            if channel is not None and self._session.is_open:
                self._session.call("forget", channel)
        except BrokerError:
            pass  # a ring for it finds that nobody listens
        finally:
            self._session.close()


def _publish_calls(runs: Sequence[Alike]) -> list[Call]:
    """Return one call for all messages; one for each if one of them is a duplicate of another."""
    ids = [id for run in runs for id in run.ids]
    if all(run.pattern.unique_key is None for run in runs) and len(set(ids)) == len(ids):
        return [_publish(runs, range(len(ids)))]
    alone = list(enumerate(Alike(m, [m.id], [m.args]) for run in runs for m in run))
    keys = [run.pattern.unique_key for _, run in alone if run.pattern.unique_key is not None]
    if len(set(keys)) < len(keys) or len(set(ids)) < len(ids):
        return [_publish([run], [place]) for place, run in alone]
    alone.sort(key=lambda one: one[1].pattern.unique_key or "")
    return [_publish([run for _, run in alone], [place for place, _ in alone])]


def _publish(runs: Sequence[Alike], places: Sequence[int]) -> Call:
    """Return the call that stores messages; what is alike in a run is encoded once."""
    names = list(dict.fromkeys(run.pattern.queue for run in runs))

    def column(of: int, read: Callable[[Message], Any]) -> Array:
        return array(of, len(places), [element(of, read(run.pattern)) * len(run) for run in runs])

    return (
        "publish",
        array_of(INT4, places),
        array_of(UUID, [id for run in runs for id in run.ids]),
        array_of(TEXT, names),
        column(INT4, lambda first: names.index(first.queue) + 1),
        column(TEXT, partial(stored_field, "task")),
        array_of(BYTEA, [args for run in runs for args in run.args]),
        *(column(of, partial(stored_field, name)) for name, of in COLUMNS.items()),
    )


def _lease(row: Row) -> Lease:
    return Lease(message_of(row), *row[14:])


def _receipts(leases: Sequence[Lease]) -> tuple[Array, Array, Array]:
    return (
        array_of(UUID, [lease.message.id for lease in leases]),
        array_of(INT8, [lease.receipt for lease in leases]),
        array_of(INT4, [lease.fence for lease in leases]),
    )


def _end(settlements: Sequence[Settlement]) -> Call:
    """Return the call that ends leases, all by acknowledgement or all otherwise."""
    receipts = _receipts([settlement.lease for settlement in settlements])
    ends = [other_end(s.lease, s.outcome, 0) for s in settlements if not isinstance(s.outcome, Ack)]
    if ends:
        delays = array_of(INT8, [end["since"] for end in ends])
        why = [array_of(TEXT, [e[name] for e in ends]) for name in ("charge", "error", "reason")]
        return ("end_otherwise", *receipts, delays, *why, contract.ATTEMPTS_KEPT)
    acks = [s.outcome for s in settlements if isinstance(s.outcome, Ack)]
    return ("acknowledge", *receipts, *_kept(acks))


def _kept(acks: Sequence[Ack]) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """Return what is kept: for how long, which values, under which ids too, for how long there."""
    recorded = any(ack.record for ack in acks)
    if not recorded and not any(ack.keep_ms > 0 for ack in acks):
        return None, None, None, None
    keeps = array_of(INT8, [min(ack.keep_ms, MAX_DURATION_MS) for ack in acks])
    values = array_of(BYTEA, [ack.result for ack in acks])
    if not recorded:
        return keeps, values, None, None
    records = array_of(UUID, [ack.record.id if ack.record else None for ack in acks])
    spans = [min(ack.record.keep_ms, MAX_DURATION_MS) if ack.record else 0 for ack in acks]
    return keeps, values, records, array_of(INT8, spans)


def _ring_for(settlements: Sequence[Settlement]) -> Call:
    back = {s.lease.message.queue for s in settlements if type(s.outcome) is not Ack}
    ended = [s.lease.message.id for s in settlements if type(s.outcome) in {Ack, DeadLetter}]
    return ("ring", array_of(TEXT, sorted(back)), array_of(UUID, ended))
