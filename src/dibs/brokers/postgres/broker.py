"""The PostgreSQL broker: the contract's verbs, each the call of one function of the schema.

Must never: hold SQL, or take two transactions for one move. What the functions do is said in
migrations/*.sql. Called by: whoever holds a `Broker`; made by `open_url`.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from dibs.alike import Alike
from dibs.brokers import checks, contract
from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import APPLIED, GONE, STALE, STORED, UNKNOWN
from dibs.brokers.ends import kept_columns, other_end, queues_of_others
from dibs.brokers.handed import claimed, taken
from dibs.brokers.postgres.inspector import (
    COLUMNS,
    PostgresInspector,
    lease_of,
    result_of,
    stored_field,
)
from dibs.clock import Clock
from dibs.errors import BrokerError, OptionError, PublishUnknown
from dibs.message import Ack, DeadLetter, Lease, Message, Result, Settlement
from dibs.wires.libpq.arrays import BYTEA, INT4, INT8, TEXT, UUID, Array, array, array_of, element
from dibs.wires.libpq.floors import Floors
from dibs.wires.libpq.leases import lease_in, note_of, receipts_of
from dibs.wires.libpq.listener import Listener
from dibs.wires.libpq.session import Call, Session, Unanswered

BATCH = 5_000
LATE = contract.Applied(late=True)
ANSWERS: dict[str, contract.Settled] = {
    "applied": APPLIED, "late": LATE, "stale": STALE, "gone": GONE,
}  # fmt: skip


class PostgresBroker(contract.Broker):
    """Queues in one schema of a database, for processes anywhere."""

    capabilities = Capabilities(
        "D2", "synchronous_commit=on, fsync=on, full_page_writes=on", BATCH, 1 << 20,
        takes_ahead=True, transactional_publish=True,
    )  # fmt: skip

    def __init__(self, session: Session, bell: Listener, clock: Clock, *, created: bool) -> None:
        self.url = session.shown
        self.created = created
        _, self._store, level, note = session.call("about")[0]
        self.capabilities = replace(self.capabilities, durability=level, durability_note=note)
        self._session = session
        self._bell = bell
        self._clock = clock
        self._ahead_ms = 0  # the server's clock, of `boot_ms`, at most
        self._floors = Floors(clock)
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
        # Behind a pooler what follows the commit may be late, so nothing is handed over.
        note = note_of(runs) if self._session.persistent else None
        after: Call = ("ring", array_of(TEXT, sorted({run.pattern.queue for run in runs})), None)
        if note is not None:
            after = ("tell", runs[0].ids[0].hex(), runs[0].pattern.queue, note)
        try:
            found = self._session.run(_publish_calls(runs, note is not None), after=after)
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
        """Grant what was handed over or is ready; who gets too little first said that it waits."""
        names = [q for q in dict.fromkeys(queues) if contract.QUEUE_NAME.fullmatch(q)]
        limit = max(0, min(limit, BATCH))
        with self._session.limit.together():
            channel = self._bell.channel()
            return claimed(
                limit,
                lambda room: self._handed(names, room, channel),
                lambda: self._claimed(names, limit, channel),
            )

    def _claimed(self, names: Sequence[str], limit: int, channel: str | None) -> contract.Claim:
        # A claim that mostly gets all it asks for need not say that it waits before it knows.
        found = self._granted(names, limit, channel, arm=not self._was_full)
        self._was_full = len(found.leases) == limit
        if self._was_full or channel is None or self._bell.armed:
            return found
        if found.leases or self._bell.handed:
            return contract.Claim(found.leases, 0)
        # Looked again once it is armed: what was published in between has rung nobody.
        return self._granted(names, limit, channel, arm=True)

    def _granted(
        self, names: Sequence[str], limit: int, channel: str | None, *, arm: bool
    ) -> contract.Claim:
        self._turn += 1
        start, sent = self._turn % max(len(names), 1), self._clock.boot_ms()
        names = [*names[start:], *names[:start]]
        asked, floors = array_of(TEXT, names), array_of(INT8, self._floors.of(names))
        claim = ("claim", asked, floors, limit, channel, self._bell.is_idle)
        wanted = frozenset(names)
        arms = arm and channel is not None and limit > 0 and self._bell.armed != wanted
        before = ("arm", channel, asked) if arms else None
        try:
            ((*rows, last),) = self._session.run([claim], before=before)
        except Unanswered:
            self._bell.is_idle = channel is not None  # its wish may stand
            raise
        self._ahead_ms = last[4] - sent
        wish, armed, wait = last[16:19]
        if not self._bell.wished(wish, is_busy=0 < len(rows) < limit):
            wait = 0  # the next claim finds what was not told
        if len(rows) == limit:
            self._bell.disarm(rung=not armed)
            wait = 0
        elif not armed:
            self._bell.armed = frozenset()
        elif arms:
            self._bell.armed = wanted
        self._floors.note(rows)
        leases = [lease_of(row) for row in rows]
        self._session.limit.bear(leases)
        if last[1]:
            with contextlib.suppress(BrokerError):  # they look once a second anyway
                self._session.call("ring", array_of(TEXT, last[1].split(",")), None)
        asks = len(rows) == limit and self._bell.is_idle  # it could not take its wish back
        return contract.Claim(leases, None if wait is None else wait / 1_000, still_asks=asks)

    def _handed(self, names: Sequence[str], limit: int, channel: str | None) -> list[Lease]:
        """Take what was handed over; what is not wanted is given back."""
        if not (notes := self._bell.handed):
            return []
        leases = [lease for lease in map(lease_in, notes) if lease is not None]
        leases = taken(self, leases, names, limit, self._clock.boot_ms() + self._ahead_ms)
        notes.clear()
        self._session.limit.bear(leases)
        if 0 < len(leases) == limit:
            with contextlib.suppress(BrokerError):
                self._granted(names, 0, channel, arm=False)  # it has no room to be rung for
        return leases

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """End leases: acknowledgements together, everything else one by one."""
        settlements = list(settlements)  # each is looked at again and again
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
            rows = self._session.call("extend", *receipts_of([own[key] for key in keys]), lasts)
        except Unanswered:
            return [UNKNOWN] * len(leases)
        held: dict[Any, contract.Extended] = {
            keys[at - 1]: UNKNOWN if ms is None else contract.Held(ms / 1_000) for at, ms in rows
        }
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
        if self._bell.is_idle or self._bell.handed:
            with contextlib.suppress(BrokerError):
                self.claim((), 0)
        channel = self._bell.close()
        if channel is not None and self._session.is_open:
            with contextlib.suppress(BrokerError):  # a ring for it finds that nobody listens
                self._session.call("forget", channel)
        self._session.close()


def _publish_calls(runs: Sequence[Alike], alone: bool) -> list[Call]:
    """Return one call for all messages; one for each if one of them is a duplicate of another."""
    ids = [id for run in runs for id in run.ids]
    if all(run.pattern.unique_key is None for run in runs) and len(set(ids)) == len(ids):
        return [_publish(runs, range(len(ids)), alone)]
    each = list(enumerate(Alike(m, [m.id], [m.args]) for run in runs for m in run))
    keys = [run.pattern.unique_key for _, run in each if run.pattern.unique_key is not None]
    if len(set(keys)) < len(keys) or len(set(ids)) < len(ids):
        return [_publish([run], [place], False) for place, run in each]
    each.sort(key=lambda one: one[1].pattern.unique_key or "")
    return [_publish([run for _, run in each], [place for place, _ in each], alone)]


def _publish(runs: Sequence[Alike], places: Sequence[int], alone: bool) -> Call:
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
        alone,
    )


def _end(settlements: Sequence[Settlement]) -> Call:
    """Return the call that ends leases, all by acknowledgement or all otherwise."""
    receipts = receipts_of([settlement.lease for settlement in settlements])
    ends = [other_end(s.lease, s.outcome, 0) for s in settlements if not isinstance(s.outcome, Ack)]
    if ends:
        delays = array_of(INT8, [end["since"] for end in ends])
        why = [array_of(TEXT, [e[name] for e in ends]) for name in ("charge", "error", "reason")]
        return ("end_otherwise", *receipts, delays, *why, contract.ATTEMPTS_KEPT)
    kept = kept_columns([s.outcome for s in settlements if isinstance(s.outcome, Ack)])
    columns = zip((INT8, BYTEA, UUID, INT8), kept, strict=True)
    return ("acknowledge", *receipts, *(v if v is None else array_of(of, v) for of, v in columns))


def _ring_for(settlements: Sequence[Settlement]) -> Call:
    back = sorted(queues_of_others(settlements))
    ended = [s.lease.message.id for s in settlements if type(s.outcome) in {Ack, DeadLetter}]
    return ("ring", array_of(TEXT, back), array_of(UUID, ended))
