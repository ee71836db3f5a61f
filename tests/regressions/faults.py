"""The failures of others, made again in the real parts: what each regression test must find.

Owns: the faults, by name. Each changes classes and functions of dibs through the `patch` that it is
given (`setattr`, or that of a test that undoes it), so that a worker, a broker or a pump then does
what some queue really did.
Must never: be imported by dibs, or be in force in a test that is not told of it.
Called by: `seeding.py` for tests of this process, `tests/launch.py` for whole workers.
"""

import contextlib
import fcntl
import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dibs import policy
from dibs.brokers.contract import APPLIED, Claim, Extended, Held, Settled
from dibs.brokers.holds import Hold, Holds
from dibs.brokers.horizon import Horizon
from dibs.brokers.sqlite import SqliteBroker
from dibs.clock import Clock
from dibs.errors import BrokerBusy, BrokerError
from dibs.local.bells import Bells
from dibs.local.database import Database
from dibs.local.lock import WriteLock
from dibs.message import Ack, DeadLetter, Error, Lease, Nack, Outcome, Release, Settlement
from dibs.producer.door import Door
from dibs.wires.aws.polls import Polls
from dibs.wires.libpq.listener import Listener
from dibs.wires.resp.bell import Bell
from dibs.wires.resp.link import Link
from dibs.worker import pump as pump_module
from dibs.worker.crew import Crew, Member
from dibs.worker.patience import Patience
from dibs.worker.pump import Pump
from dibs.worker.settler import Settler
from dibs.worker.upkeep import Upkeep

Patch = Callable[[Any, str, Any], None]
LATE_MS = 3_000


class Shifted:
    """The clock of a machine whose wall clock is `wall` ms ahead of the others'."""

    def __init__(self, clock: Clock, wall: int) -> None:
        self._clock = clock
        self._wall = wall
        self.boot_ms = clock.boot_ms
        self.boot_id = clock.boot_id
        self.monotonic = clock.monotonic

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + self._wall


def with_clock(patch: Patch, change: Callable[[Any], Any]) -> None:
    """Give each broker that is opened another clock than it was told to use."""
    opened = SqliteBroker.__init__

    def init(self: SqliteBroker, path: Any, *, worker_id: bytes, clock: Any) -> None:
        opened(self, path, worker_id=worker_id, clock=change(clock))

    patch(SqliteBroker, "__init__", init)


# What is granted, and when


def pops(patch: Patch) -> None:
    """Take a message out of the store when it is claimed: whoever dies, loses it."""
    claim, settle = SqliteBroker.claim, SqliteBroker.settle

    def popping(self: SqliteBroker, queues: Sequence[str], limit: int) -> Claim:
        found = claim(self, queues, limit)
        settle(self, [Settlement(lease, Ack()) for lease in found.leases])
        return found

    def extend(self: SqliteBroker, leases: Sequence[Lease]) -> list[Extended]:
        del self
        return [Held(lease.message.visibility_timeout_ms / 1_000) for lease in leases]

    def put_back(self: SqliteBroker, settlements: Sequence[Settlement]) -> list[Settled]:
        back = [s.lease.message for s in settlements if isinstance(s.outcome, Nack | Release)]
        if back:
            self.publish(back)
        return [APPLIED] * len(settlements)

    patch(SqliteBroker, "claim", popping)
    patch(SqliteBroker, "settle", put_back)
    patch(SqliteBroker, "extend", extend)


def grants_early(patch: Patch) -> None:
    """Hand out what is not due yet, for the worker to keep until it is."""
    with_clock(patch, lambda clock: Shifted(clock, 3_600_000))


def grants_late(patch: Patch) -> None:
    """Look for what has fallen due too seldom."""
    with_clock(patch, lambda clock: Shifted(clock, -LATE_MS))


def leases_by_wall_clock(patch: Patch) -> None:
    """Count leases on a clock that people set."""

    def by_wall(clock: Any) -> Any:
        clock.boot_ms = clock.wall_ms
        return clock

    with_clock(patch, by_wall)


def rescues_late(patch: Patch) -> None:
    """Look for dead holders on a slow schedule of its own."""
    run = Database.run

    def is_passed(self: Horizon) -> bool:
        ((first,),) = self._first()
        return first is not None and first + LATE_MS <= self._clock.boot_ms()

    def running(self: Database, statement: str, *values: Any, **named: Any) -> list[Any]:
        if statement == "expired":
            values = values[0] - LATE_MS, *values[1:]
        return run(self, statement, *values, **named)

    patch(Horizon, "is_passed", is_passed)
    patch(Database, "run", running)


def rescues_its_own_queues_only(patch: Patch) -> None:
    """Read a page of what has expired, and leave in it what this worker has no use for."""
    grant, run = SqliteBroker._grant, Database.run
    asked: set[int] = set()

    def granting(self: SqliteBroker, queues: Sequence[str], limit: int) -> Claim:
        asked.clear()
        asked.update(number for queue in queues if (number := self._number(queue)))
        return grant(self, queues, limit)

    def running(self: Database, statement: str, *values: Any, **named: Any) -> list[Any]:
        rows = run(self, statement, *values, **named)
        if statement != "expired":
            return rows
        of = "SELECT queue FROM lease WHERE seq = ?"
        return [row for row in rows if self.connection.execute(of, row).fetchone()[0] in asked]

    patch(SqliteBroker, "_grant", granting)
    patch(Database, "run", running)


def waits_for_the_owner(patch: Patch) -> None:
    """Leave expired leases alone while a holder of this name seems to be alive."""
    claimed, is_passed = SqliteBroker._claimed, Horizon.is_passed
    alone = True

    def claiming(self: SqliteBroker, *asked: Any) -> Claim:
        nonlocal alone
        names = [name.partition("-")[0] for name in os.listdir(self._bells._folder)]
        alone = max(map(names.count, names), default=0) < 2
        return claimed(self, *asked)

    patch(SqliteBroker, "_claimed", claiming)
    patch(Horizon, "is_passed", lambda horizon: alone and is_passed(horizon))


# Moves of more than one step


def gap(broker: SqliteBroker) -> None:
    """End the transaction and begin another: between the two anybody may write, or one may die."""
    broker._run("commit")
    broker._db._lock.release()
    broker._clock.wall_ms()
    broker._db._lock.acquire(5)
    broker._run("begin")


def stepwise(
    patch: Patch, statement: str, steps: Callable[[SqliteBroker, Any], None], *, instead: bool
) -> None:
    """Have `steps` done before a statement, or in its place."""
    opened = SqliteBroker.__init__

    def init(self: SqliteBroker, *arguments: Any, **named: Any) -> None:
        opened(self, *arguments, **named)
        run = self._run

        def running(name: str, *values: Any, **given: Any) -> list[Any]:
            if name == statement:
                steps(self, given)
                if instead:
                    return []
            return run(name, *values, **given)

        self._run = running

    patch(SqliteBroker, "__init__", init)


def split_before(patch: Patch, statement: str) -> None:
    """Cut a transaction in two before a statement."""
    stepwise(patch, statement, lambda broker, _: gap(broker), instead=False)


def stores_in_two_steps(patch: Patch) -> None:
    """Write messages down, and then put them into their queues."""
    split_before(patch, "make_ready")


def returns_in_two_steps(patch: Patch) -> None:
    """End a lease, and then put its message back."""
    split_before(patch, "end_otherwise")


def claims_in_two_steps(patch: Patch) -> None:
    """Take jobs off the queue, and note later who has them."""

    def steps(broker: SqliteBroker, given: Any) -> None:
        execute = broker._db.connection.execute
        found = "FROM ready WHERE queue = :queue AND (rank, seq) <= (:rank, :seq)"
        taken = execute(f"SELECT seq {found}", given).fetchall()
        execute(f"DELETE {found}", given)
        gap(broker)
        for (seq,) in taken:
            lease = "SELECT seq, fence + 1, ? + visibility_timeout_ms, queue FROM message"
            noted = f"INSERT OR REPLACE INTO lease {lease} WHERE seq = ?"
            execute(noted, (given["boot"], seq))

    stepwise(patch, "lease", steps, instead=True)


def claims_what_it_read_before(patch: Patch) -> None:
    """Read what is ready, and take it afterwards, whoever took it in between."""
    split_before(patch, "lease")


def promotes_in_two_steps(patch: Patch) -> None:
    """Take what has fallen due out of the schedule, then put it into its queue one by one."""

    def steps(broker: SqliteBroker, given: Any) -> None:
        execute = broker._db.connection.execute
        due = execute("SELECT queue, rank, seq FROM scheduled WHERE due_ms <= ?", (given["now"],))
        rows = due.fetchall()
        execute("DELETE FROM scheduled WHERE due_ms <= ?", (given["now"],))
        gap(broker)
        for row in rows:
            execute("INSERT INTO ready VALUES (?, ?, ?)", row)
            gap(broker)

    stepwise(patch, "promote", steps, instead=True)


def sweeps_what_it_read_before(patch: Patch) -> None:
    """Read which leases have expired, and write their jobs back as they were read."""

    def steps(broker: SqliteBroker, _: Any) -> None:
        execute = broker._db.connection.execute
        expired = "FROM lease WHERE expiry_ms <= ?"
        now = (broker._clock.boot_ms(),)
        rows = execute(f"SELECT * FROM message WHERE seq IN (SELECT seq {expired})", now).fetchall()
        gap(broker)
        for row in rows:
            marks = ", ".join("?" * len(row))
            execute(f"INSERT OR REPLACE INTO message VALUES ({marks})", row)
            back = "INSERT OR REPLACE INTO ready SELECT queue, 9 - priority, seq FROM message"
            execute(f"{back} WHERE seq = ?", row[:1])
            execute("UPDATE message SET overdue = 1, fence = 1 WHERE seq = ?", row[:1])
            execute("DELETE FROM lease WHERE seq = ?", row[:1])

    stepwise(patch, "sweep", steps, instead=True)


# Settlements and leases


def acks_by_id_alone(patch: Patch) -> None:
    """Let whoever was late end the run of another."""
    settle = SqliteBroker._settle_one

    def unfenced(self: SqliteBroker, settlement: Settlement) -> Settled:
        seq = settlement.lease.receipt
        rows = self._db.connection.execute("SELECT fence FROM lease WHERE seq = ?", (seq,))
        fence = next((fence for (fence,) in rows), settlement.lease.fence)
        return settle(self, replace(settlement, lease=replace(settlement.lease, fence=fence)))

    patch(SqliteBroker, "_settle_one", unfenced)


def acks_in_memory(patch: Patch) -> None:
    """Say that an acknowledgement is stored, and store it later."""

    def settle(self: SqliteBroker, settlements: Sequence[Settlement]) -> list[Settled]:
        del self
        return [APPLIED] * len(settlements)

    patch(SqliteBroker, "settle", settle)


def never_renews(patch: Patch) -> None:
    """Let every lease run out, however long its job takes."""

    def extend(self: Upkeep, now: float) -> None:
        del now
        self._leases.plan_extend(math.inf)

    patch(Upkeep, "extend", extend)


def renews_until_stopped(patch: Patch) -> None:
    """Renew no lease after a stop was asked for, though jobs still run."""
    stop = Pump.stop

    def stopping(self: Pump) -> None:
        stop(self)
        self._upkeep.extend = lambda _: self.leases.plan_extend(math.inf)

    patch(Pump, "stop", stopping)


def forgets_acks_when_stopped(patch: Patch) -> None:
    """Let running jobs finish on a stop, and acknowledge none of them."""
    stop = Pump.stop

    def ack(self: Settler, leases: list[Lease]) -> None: ...

    def stopping(self: Pump) -> None:
        stop(self)
        self.settler.ack = ack.__get__(self.settler)

    patch(Pump, "stop", stopping)


# Processes that die


def acks_what_a_dead_runner_ran(patch: Patch) -> None:
    """Take the death of a process for the end of its jobs."""

    def after_crash(lease: Lease, error: Error) -> Outcome:
        del lease, error
        return Ack()

    patch(pump_module, "after_crash", after_crash)


def counts_no_crash(patch: Patch) -> None:
    """Run again, and again, what kills its process."""

    def after_crash(lease: Lease, error: Error) -> Outcome:
        del lease
        return Nack(0, error, "nothing")

    patch(pump_module, "after_crash", after_crash)


def strands_what_was_queued(patch: Patch) -> None:
    """Forget what a dead runner had been given ahead."""
    end = Pump._end

    def ending(self: Pump, outcomes: Iterable[tuple[int, Outcome]]) -> int:
        pairs = list(outcomes)
        if all(isinstance(outcome, Release) for _, outcome in pairs):
            return self.leases.take([serial for serial, _ in pairs])[0]
        return end(self, pairs)

    patch(Pump, "_end", ending)


def replaces_nobody(patch: Patch) -> None:
    """Bury a dead runner, and go on with one less."""
    bury = Crew.bury

    def burying(self: Crew, member: Member, now: float, *, replace: bool) -> None:
        del replace
        bury(self, member, now, replace=False)

    patch(Crew, "bury", burying)


def keeps_the_lock_of_the_dead(patch: Patch) -> None:
    """Take the record of who has the lock for the lock: the dead never give it up."""
    init, acquire = WriteLock.__init__, WriteLock.acquire
    holding: set[int] = set()

    def making(self: WriteLock, path: Path) -> None:
        init(self, path)
        release = self.release

        def releasing() -> None:
            if id(self) in holding:
                holding.discard(id(self))
                os.ftruncate(self._lock, 0)
            release()

        self.release = releasing

    def taking(self: WriteLock, seconds: float) -> None:
        record = os.pread(self._lock, 64, 0)
        acquire(self, seconds)
        if record:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            raise BrokerBusy("whoever had it has not given it up")
        holding.add(id(self))

    patch(WriteLock, "__init__", making)
    patch(WriteLock, "acquire", taking)


def inherits_the_door(patch: Patch) -> None:
    """Keep in a forked child the locks of threads that it does not have."""
    renew = Door.renew

    def renewing(self: Door) -> None:
        if not hasattr(self, "_lock"):
            renew(self)

    patch(Door, "renew", renewing)


# Trouble


def dies_of_trouble(patch: Patch) -> None:
    """Let an error of the broker out of the loop."""

    def failed(self: Patience, error: BrokerError) -> None:
        del self
        raise error

    patch(Patience, "failed", failed)


def claims_no_more_after_trouble(patch: Patch) -> None:
    """Come back after trouble, renew what is held, and never claim again."""
    failed, claim = Patience.failed, Pump._claim

    def failing(self: Patience, error: BrokerError) -> None:
        failed(self, error)
        self.over = True

    def claiming(self: Pump, now: float, rung: bool) -> None:
        if hasattr(self._patience, "over"):
            self._claim_at = math.inf
        else:
            claim(self, now, rung)

    patch(Patience, "failed", failing)
    patch(Pump, "_claim", claiming)


def waits_as_long_as_it_takes(patch: Patch) -> None:
    """Give a call the same long limit, whatever lease depends on it."""
    hurry = Database.hurry

    def hurrying(self: Database, seconds: float) -> None:
        hurry(self, max(seconds, 5.0))

    patch(Database, "hurry", hurrying)


def leaves_descriptors_behind(patch: Patch) -> None:
    """Forget, now and then on closing, what is not the database itself.

    Not each time: other tests of the process use `select`, which takes no descriptor above 1,023.
    """
    plain, times = WriteLock.close, count()

    def close(self: WriteLock) -> None:
        if next(times) % 50:
            plain(self)

    patch(WriteLock, "close", close)


def hangs_its_bell_up_once(patch: Patch) -> None:
    """Never notice that nobody can ring any more."""

    def hung_up(self: Bells) -> int:
        if self._fd >= 0:
            raise FileNotFoundError
        return hang_up(self)

    hang_up = Bells._hung_up
    patch(Bells, "_hung_up", hung_up)


def trusts_its_descriptor(patch: Patch) -> None:
    """Write to a file that nobody else will ever open."""

    def check_file(self: Database) -> None: ...

    patch(Database, "check_file", check_file)


def discards_what_it_does_not_know(patch: Patch) -> None:
    """Give up on a job because this worker has no such task."""

    def unknown(lease: Lease, lacked_s: float) -> Outcome:
        del lacked_s
        return DeadLetter("unknown_task", Error("dibs.policy", lease.message.task))

    patch(policy, "_unknown", unknown)


# What is listened to on a server


def keeps_a_broken_connection(patch: Patch) -> None:
    """Go on with a connection whatever became of it."""

    def close(self: Link) -> None:
        del self

    patch(Link, "close", close)


def listens_once(patch: Patch) -> None:
    """Hang the bell up at the start, and never again."""

    def take_down(self: Bell) -> None:
        del self

    patch(Bell, "take_down", take_down)


def polls_no_more_after_an_error(patch: Patch) -> None:
    """Let the thread that polls end by an error, while everybody takes it for waiting."""

    def run(self: Polls[Any], queue: str, poll: Any) -> None:
        with contextlib.suppress(Exception):
            while self._open:
                self._step(queue, poll)

    def bring(self: Polls[Any], queue: str, poll: Any, most: int) -> None:
        brought = self._poll(queue, most)
        with self._changed:
            poll.under_way = False
            poll.want, poll.dry = 0, len(brought) < most
            poll.brought += brought
            self._bell.ring()

    patch(Polls, "_run", run)
    patch(Polls, "_bring", bring)


def settles_by_any_receipt(patch: Patch) -> None:
    """Send whatever receipt one has: the server will know."""

    def of(self: Holds, lease: Lease, now: float) -> Hold:
        del self, now
        return Hold(str(lease.receipt).partition(" ")[2], 0, math.inf)

    patch(Holds, "of", of)


# On a RabbitMQ server


def takes_any_timeout(patch: Patch) -> None:
    """Let a job run for longer than the server leaves a message unacknowledged."""
    from dibs.brokers.rabbitmq import broker

    real = broker.capabilities_of

    def capabilities_of(consumer_timeout: int) -> Any:
        return replace(real(consumer_timeout), longest_run_ms=None)

    patch(broker, "capabilities_of", capabilities_of)


def publishes_unrouted(patch: Patch) -> None:
    """Leave out `mandatory`: what no queue takes is thrown away, and confirmed."""
    from dibs.wires.amqp import wire

    real = wire.published

    def published(*message: Any) -> bytes:
        frames = bytearray(real(*message))
        frames[6 + int.from_bytes(frames[3:7], "big")] = 0
        return bytes(frames)

    patch(wire, "published", published)


# On a PostgreSQL server


def listens_to_one_connection(patch: Patch) -> None:
    """Listen on the first connection only: PostgreSQL's bell is silent once it is lost."""
    listen = Listener._listen
    done: set[int] = set()

    def once(self: Listener, session: Any) -> None:
        if id(self) in done:
            raise BrokerError("it has listened before")
        done.add(id(self))
        listen(self, session)

    patch(Listener, "_listen", once)


FAULTS: dict[str, Callable[[Patch], None]] = {
    name: value
    for name, value in list(globals().items())
    if getattr(value, "__module__", "") == __name__
    and list(getattr(value, "__annotations__", ())) == ["patch", "return"]
}
