"""The embedded broker: the contract's verbs, each one transaction over the statements.

Must never: hold SQL, or leave a message in two states for a moment. Called by: whoever holds a
`Broker`; made by `open_sqlite`. What is handed to `Database.write` runs with the lock held.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from apsw import carray

from dibs.alike import Alike, runs_of
from dibs.brokers import checks, contract
from dibs.brokers.capabilities import Capabilities
from dibs.brokers.contract import APPLIED, STORED, UNKNOWN
from dibs.brokers.ends import Acks, acks_of, in_parts, other_end, queues_of_others
from dibs.brokers.handover import Handover
from dibs.brokers.horizon import Horizon
from dibs.brokers.sqlite.inspector import SqliteInspector, result_of
from dibs.brokers.together import Answers, Together
from dibs.clock import Clock
from dibs.errors import BrokerBusy, BrokerError, BrokerFull, PublishUnknown
from dibs.local.arrays import blobs, integers
from dibs.local.batch import Batch, is_one
from dibs.local.bells import Bells
from dibs.local.database import Database, Undo
from dibs.local.disk import beside
from dibs.local.group import Group
from dibs.local.listing import Board
from dibs.message import Ack, DeadLetter, Lease, Message, Result, Settlement

BATCH = 5_000  # also of what time alone moves: more waits for the next claim
SHARED_BATCH = 250  # a transaction of some 1 ms: a producer waits for several of them
LATE = contract.Applied(late=True)


class SqliteBroker(contract.Broker):
    """Queues in one file, for the processes of one machine."""

    capabilities = Capabilities(
        "D2", "SQLite WAL, synchronous=FULL", BATCH, 1 << 20, takes_ahead=True
    )

    def __init__(self, path: Path, *, worker_id: bytes, clock: Clock) -> None:
        self._db = Database(path, Path(__file__).parent)
        self._run = self._db.run
        self._clock = clock
        with self._db.closed_if_refused():
            if self._run("boot") != [(boot := clock.boot_id(),)]:
                self._db.write(partial(self._run, "another_boot", boot=boot))
            self._board = Board(beside(self._db.path, "-board"))
        self._bells = Bells(beside(self._db.path, "-bells"), worker_id, self._board)
        self._handover = Handover(self._db, self._bells, clock)
        self._horizon = Horizon(partial(self._run, "first_expiry"), clock)
        self._group = Group(beside(self._db.path, "-group"), self._board)
        self._together = Together(self._db, self._group, clock)
        self._numbers: dict[str, int] = {}
        self._turn = 0
        self.url = f"sqlite:///{self._db.path}"
        self.created = self._db.created

    def declare(self, queues: Sequence[str]) -> None:
        """Note the queues' names, and check the file's settings again."""
        checks.queue_names(queues)
        self._db.verify()
        if not all(self._number(queue) for queue in queues):
            self._db.write(
                lambda: [self._run("add_queue", queue) for queue in queues], storing=True
            )

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        """Store messages, many to a statement."""
        return checks.published(messages, self.capabilities, self._stored)

    def _stored(self, runs: list[Alike]) -> list[contract.Published]:
        if not self._db.contended or not is_one(runs):
            return self._commit(Batch(runs, self._clock.wall_ms()))
        with self._db.one_call():
            answer = self._together.publish(next(iter(runs[0])), self._commit)
            return self._commit(Batch(runs, self._clock.wall_ms())) if answer is None else [answer]

    def _commit(self, batch: Batch, *tell: Callable[[], object]) -> Answers:
        """Store a batch at once; one by one if there is a duplicate, to tell which."""
        try:
            answers = self._db.write(
                batch.stored_by(partial(self._store, hands_over=True)),
                batch.stored_by(self._store_each),
                storing=True,
                unsure=PublishUnknown,
                then=(self._handover.tell, *tell),
            )
        except BaseException:
            self._numbers.clear()  # a queue may have been noted that is undone
            self._handover.undo()
            raise
        if not self._handover.finish(self):
            # After the commit: who asked to be rung before it, and looked, has found nothing.
            self._bells.ring(batch.queues)
        return answers

    def _store(self, batch: Batch, *, hands_over: bool = False) -> Answers:
        connection, count = self._db.connection, 0
        for queue, wanted, values in batch.inserts:
            self._run("insert", self._number(queue) or self._added(queue), *values)
            if connection.changes() != wanted:
                raise Undo
            count += wanted
        if not count:
            return []  # another had collected what was left
        # The seqs have no gap: nobody else writes, and a conflict has raised.
        last = connection.last_insert_rowid()
        if hands_over and batch.alone and self._handover.make(batch.alone, last, batch.now):
            return [STORED]
        span = (last - count + 1, last, batch.now)
        self._run("make_ready", *span)
        if connection.changes() != count:
            self._run("schedule", *span)
        return [STORED] * count

    def _store_each(self, batch: Batch) -> Answers:
        self._numbers.clear()  # a queue may have been noted that was just undone
        return [self._store_one(message, batch.now) for run in batch.runs for message in run]

    def _store_one(self, message: Message, now: int) -> contract.Published:
        try:
            return self._store(Batch(runs_of([message]), now))[0]
        except Undo:
            (holder,) = self._run("holder", message.id, message.unique_key)
            return contract.Duplicate(*holder)

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        """Look, and write only if there is something to grant."""
        with self._db.one_call():
            return self._claim(queues, limit)

    def _claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        asked, limit = limit, min(limit, self._at_once)
        queues = [queue for queue in queues if contract.QUEUE_NAME.fullmatch(queue)]
        rung = self._handover.listen(queues) if limit else self._bells.drain()
        found = self._found(queues, limit, rung)
        self._bells.owed = False
        if limit and not found.leases and self._bells.arm(queues, idle=True):
            # Looked again once it is armed: what was published in between has rung nobody.
            found = self._found(queues, limit)
        if len(found.leases) < asked:
            is_full = len(found.leases) == limit
            if found.leases and (self._bells.arm(queues, idle=False) or is_full):
                return contract.Claim(found.leases, 0)
            return found
        try:
            self._ask_no_more(queues, passes_on=rung and not limit)
        except BrokerError:
            if not found.leases:
                raise
            # What is granted is committed: it must get out.
            return contract.Claim(found.leases, found.next_in, still_asks=True)
        return found

    def _ask_no_more(self, queues: Sequence[str], *, passes_on: bool) -> None:
        with self._db.reading():
            self._bells.disarm(queues, passes_on, lambda: self._look(queues)[1])
        self._handover.give_back(self)

    def _found(self, queues: Sequence[str], limit: int, rung: bool = False) -> contract.Claim:
        if not self._bells.handed:
            found = self._claimed(queues, limit, rung)
            if not self._bells.handed:
                return found
        return contract.Claim(self._handover.taken(self, queues, limit), 0)

    @property
    def _at_once(self) -> int:
        """How many messages one transaction moves: fewer while others wait for their turn."""
        return SHARED_BATCH if self._db.contended else BATCH

    def _look(self, queues: Sequence[str]) -> tuple[bool, list[str]]:
        """Return whether something has fallen due, and which of `queues` have something ready."""
        known = {number: queue for queue in queues if (number := self._number(queue))}
        rows = self._run("look", integers(known))
        is_due = any(not number and due <= self._clock.wall_ms() for number, due in rows)
        return is_due, [known[number] for number, _ in rows if number]

    def _claimed(self, queues: Sequence[str], limit: int, rung: bool = False) -> contract.Claim:
        with self._db.reading():
            # Whoever rang has told what a look would tell.
            if limit > 0 and (rung or any(self._look(queues)) or self._horizon.is_passed()):
                return self._db.write(partial(self._grant, queues, limit))
            self._db.check_file()  # else an idle worker waits for ever for what is stored elsewhere
            return contract.Claim([], self._next_in())

    def _grant(self, queues: Sequence[str], limit: int) -> contract.Claim:
        self._bells.drain()
        if self._bells.handed:
            return contract.Claim([], 0)  # whoever rang has handed over what it was for
        boot = self._clock.boot_ms()
        is_due, waiting = self._look(queues)
        if is_due or self._horizon.is_passed():
            self._run("promote", now=self._clock.wall_ms(), page=BATCH)
            expired = integers(seq for (seq,) in self._run("expired", boot, BATCH))
            self._run("sweep", seqs=expired)
            self._horizon.look_again()
            waiting = self._look(queues)[1]
        leases: list[Lease] = []
        self._turn += 1
        while waiting and len(leases) < limit:
            more = []
            for place in range(len(waiting)):
                queue = waiting[(self._turn + place) % len(waiting)]
                share = -(-(limit - len(leases)) // (len(waiting) - place))
                granted = self._grant_of(queue, share, boot) if share else []
                leases += granted
                if len(granted) == share:
                    more.append(queue)
            waiting = more
        # Asked within the transaction: an error after it would lose the leases.
        return contract.Claim(leases, self._next_in())

    def _grant_of(self, queue: str, limit: int, boot: int) -> list[Lease]:
        number = self._numbers[queue]
        rows = self._run("grant", number, limit)
        if rows:
            self._run("lease", boot=boot, queue=number, rank=9 - rows[-1][5], seq=rows[-1][18])
            self._db.hurry(min({row[6] for row in rows}) / 6_000)  # a late renewal loses a lease
        if overdue := [row[18] for row in rows if row[19]]:
            self._run("count_lost", integers(overdue))
        return [
            Lease(
                Message(
                    id, queue, task, args, due, priority, held, run, attempts, max_crashes,
                    max_lost, key, json.loads(headers) if headers else {}, version,
                ),
                fence, failures, crashes, lost, boot + held, seq,
            )
            for (
                id, _, task, args, due, priority, held, run, attempts, max_crashes,
                max_lost, key, headers, version, fence, failures, crashes, lost, seq, _,
            ) in rows
        ]  # fmt: skip

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """End leases: acknowledgements together, everything else one by one."""
        answers = in_parts(settlements, lambda: self._at_once, self._settled)
        self._bells.ring(queues_of_others(settlements))
        over = (s for s in settlements if type(s.outcome) in {Ack, DeadLetter})
        self._bells.ring_ends(s.lease.message.id for s in over)
        return answers

    def _settled(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        unknown: list[contract.Settled] = [UNKNOWN] * len(settlements)
        together = partial(self._settle, settlements, acks_of(settlements))
        return self._db.write_or(
            unknown, together, lambda: [self._settle_one(s) for s in settlements]
        )

    def _settle(self, settlements: Sequence[Settlement], acks: Acks) -> list[contract.Settled]:
        others = acks.count < len(settlements)
        if others and len({s.lease.receipt for s in settlements}) < len(settlements):
            raise Undo
        for fence, receipts in acks.receipts.items():
            seqs = integers(receipts)
            self._run("end_leases", seqs, fence, self._clock.boot_ms())
            if self._db.connection.changes() != len(receipts):
                raise Undo
            self._forget(seqs, fence)
        self._keep(acks)
        if not others:
            return [APPLIED] * len(settlements)
        return [APPLIED if type(s.outcome) is Ack else self._settle_one(s) for s in settlements]

    def _settle_one(self, settlement: Settlement) -> contract.Settled:
        lease, outcome = settlement.lease, settlement.outcome
        ended = self._run("end_lease", lease.receipt, lease.fence)
        if not ended and not self._revived(lease):
            return contract.Stale() if self._run("alive", lease.receipt) else contract.Gone()
        if isinstance(outcome, Ack):
            self._forget(integers([lease.receipt]), lease.fence)
            self._keep(acks_of([settlement]))
        else:
            end = other_end(lease, outcome, self._clock.wall_ms())
            self._run("end_otherwise", **end)
        return APPLIED if ended and ended[0][0] > self._clock.boot_ms() else LATE

    def _forget(self, seqs: Any, fence: int) -> None:
        self._run("forget", seqs)
        if fence > 1:  # no lease ended before the first: most messages are spared the look
            self._run("forget_attempts", seqs)

    def _keep(self, acks: Acks) -> None:
        now = self._clock.wall_ms()
        for keep_ms, ids in acks.ends.items():
            self._run("keep_ends", blobs(ids), now + keep_ms)
        for keep_ms, (ids, values) in acks.results.items():
            self._run("keep_results", b"".join(ids), blobs(values), now + keep_ms)
        if acks.kept:
            # Here too: where there is always work, no moment is idle, and results would pile up.
            self._run("prune_results", now, 2 * acks.kept)

    def _revived(self, lease: Lease) -> int | None:
        """Take a message whose lease ran out off its queue, and return the queue's number."""
        rows = self._run("revive", lease.receipt, lease.fence)
        if rows:
            self._run("unready", *rows[0])
        return rows[0][0] if rows else None

    def extend(self, leases: Sequence[Lease]) -> list[contract.Extended]:
        """Renew leases, also those that ran out and were not granted again."""
        if not leases:
            return []
        unknown: list[contract.Extended] = [UNKNOWN] * len(leases)
        return self._db.write_or(unknown, lambda: [self._extended(lease) for lease in leases])

    def _extended(self, lease: Lease) -> contract.Extended:
        boot = self._clock.boot_ms()
        until = boot + lease.message.visibility_timeout_ms
        if rows := self._run("extend", lease.receipt, lease.fence, until):
            until = rows[0][0]
        elif queue := self._revived(lease):
            self._run("lease_again", lease.receipt, lease.fence, until, queue)
        else:
            return contract.Lost()
        return contract.Held((until - boot) / 1000)

    def bell(self) -> int:
        """Return the FIFO that others ring."""
        return self._bells.fd()

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Say how messages ended, and be rung for the others."""
        self._bells.drain()
        self._bells.stay_rung()
        self._db.check_file()  # else it is waited for ever for what ends elsewhere
        found = self._results(ids)
        unfinished = [id for id, answer in zip(ids, found, strict=True) if answer is None]
        # Once more if one is new: what ended in between has rung nobody.
        return self._results(ids) if self._bells.await_ends(unfinished[:BATCH]) else found

    def _results(self, ids: Sequence[bytes]) -> list[Result | None]:
        answers: list[Result | None] = [None] * len(ids)
        rows = self._run("results", carray(tuple(ids)), self._clock.wall_ms()) if ids else ()
        with self._db.reading():
            for place, *row in rows:
                answers[place] = result_of(ids[place], row)
        return answers

    def inspector(self) -> contract.Inspector:
        """Return the slow door."""
        return SqliteInspector(self._db, self._bells, self._clock)

    def idle(self) -> None:
        """Prune results, give pages back, empty the log; nothing of it waits for the lock."""
        now = self._clock.wall_ms()
        try:
            if self._run("chores", now) == [(1,)]:
                self._db.write(lambda: self._run("do_chores", now), wait=0)
            self._db.checkpoint()
            self._bells.bury_dead()
        except (BrokerBusy, BrokerFull):
            return  # a later moment may be quieter, or have room: whoever stores is told of that

    def close(self) -> None:
        """Remove the bell and close the file."""
        with contextlib.suppress(BrokerError):
            self._ask_no_more((), passes_on=False)
        self._bells.close()
        self._group.close()
        self._board.close()
        self._db.close()

    def _number(self, queue: str) -> int | None:
        if queue not in self._numbers:
            self._numbers |= dict(self._run("queue_number", queue))
        return self._numbers.get(queue)

    def _added(self, queue: str) -> int:
        self._run("add_queue", queue)
        return int(self._run("queue_number", queue)[0][1])

    def _next_in(self) -> float | None:
        return self._horizon.next_in(*self._run("next_moments")[0])
