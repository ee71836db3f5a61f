"""Queues in Amazon SQS: the verbs of the contract.

Must never: settle or extend by a receipt whose time is over on our own clock, since SQS may take
it for its new holder's: that stands here for a fence; or let what one queue lacks stop the others.
Called by: whoever holds a `Broker`; made by `open_sqs`.
"""

from collections.abc import Collection, Sequence
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dibs.brokers import checks, contract, wire
from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.holds import Hold, Holds
from dibs.brokers.sqs.inspector import SqsInspector
from dibs.brokers.sqs.parcel import AWAY, ROOM, Parcel, copy_of, dead_copy_of, parcel_of, place_of
from dibs.clock import Clock
from dibs.message import Ack, DeadLetter, Lease, Message, Result, Settlement, TaskInfo
from dibs.wires.aws.calls import MOST_SECONDS, Calls
from dibs.wires.aws.carry import CEILING_SECONDS, FRESH_MS, Carrier
from dibs.wires.aws.client import Address, Failure, taken
from dibs.wires.aws.moves import Move, Moves, Place, hiding, whole_seconds
from dibs.wires.aws.polls import Polls
from dibs.wires.aws.queues import DEAD, LONG, RESERVED, Queues
from dibs.wires.aws.receives import POLL_SECONDS, Receives

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

CAPABILITIES = Capabilities(
    durability="D3", durability_note="in several zones of its region before SQS answers",
    batch_limit=100, payload_limit=1_048_576 - ROOM, longest_lease_ms=CEILING_SECONDS * 1_000,
    atomic_batches=False, atomic_retry=False, native_fence=False, unique_ids=False, ordered=False,
    takes_ahead=True, tells_next=False, purges_scheduled=False, exact_counts=False,
    priorities=False, unique_keys=False, results=False, browsing=False,
)  # fmt: skip


class SqsBroker(contract.Broker):
    """One thread's handle on the queues of a prefix."""

    capabilities = CAPABILITIES

    def __init__(
        self, client: "SQSClient", polling: "SQSClient", address: Address, clock: Clock
    ) -> None:
        self.url = str(address)
        self._client = client = taken(client, address)
        self._clock = clock
        self._seconds = MOST_SECONDS
        self._calls = Calls(clock)
        self._queues = queues = Queues(client, address, self._calls)
        self._moves = Moves(client, self._calls, queues.heard)
        self._carrier = Carrier(client, self._calls, queues.heard)
        self._holds = Holds()
        clients = client, taken(polling, address)
        self._receives = Receives(clients, queues, self._calls, parcel_of, self._give_back)
        self._polls = Polls(self._receives.poll, self._give_back, self._receives.waited)
        self._rung, self._claims = False, count()
        if ".amazonaws." not in client.meta.endpoint_url:
            note = "as durable as this endpoint is, which is not Amazon's"
            self.capabilities = replace(CAPABILITIES, durability="D0", durability_note=note)
        self.created = self._queues.none_yet()

    def declare(self, queues: Sequence[str]) -> None:
        """Make queues and where their dead letters lie, and look at what they are set to."""
        checks.queue_names(queues)
        limit = min(self.capabilities.payload_limit, self.inspector().check(queues) - ROOM)
        self.capabilities = replace(self.capabilities, payload_limit=limit)

    def expect(self, tasks: Sequence[TaskInfo]) -> None:
        """Have queues refused whose redrive policy ends a job before its budget does."""
        self._queues.expect(tasks)

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        """Send messages; what SQS says that it has, it has."""
        checks.how_many(len(messages), self.capabilities)
        wall_ms, until = self._clock.wall_ms(), self._calls.until(self._seconds)
        whys = [self._refusal(message) for message in messages]
        fit = [message for message, why in zip(messages, whys, strict=True) if why is None]
        urls = self._queues.urls((message.queue for message in fit), until)
        items = [copy_of(urls[m.queue], m, wire.Past(), m.due_ms - wall_ms, inf) for m in fit]
        said = self._queues.heed(self._moves.send(items, until), answers=False)
        answers = iter([contract.UNKNOWN if failure else contract.STORED for failure in said])
        return [next(answers) if why is None else contract.Refused(why) for why in whys]

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        """Grant what polls brought, and what receives bring that wait for nothing."""
        limit = min(limit, self.capabilities.batch_limit)
        if limit <= 0 or not queues:
            self._give_back(self._polls.stop(), self._calls.until(self._seconds))
            return contract.Claim([], None)
        now, until = self._calls.now(), self._calls.until(self._seconds)
        half = self._calls.half(until)  # the rest is for what is found: to hide it, or it is lost
        start = next(self._claims) % len(queues)
        named = dict.fromkeys((*queues[start:], *queues[:start]))
        turn = [queue for queue in named if contract.QUEUE_NAME.fullmatch(queue)]
        look = [queue for queue in turn if not self._polls.waits(queue)]
        ready, long = self._polls.ready(turn), self._queues.long_of(turn, half)
        asked = {*look, *ready, *(queue.removesuffix(LONG) for queue in long)}
        shut = self._queues.shut_of(asked, half)
        lack = next((why for _, why in sorted(shut.items()) if why is not None), None)
        turn = [queue for queue in turn if shut.get(queue) is None]
        if lack is not None and not turn:
            raise self._queues.error(lack)
        # From here on nothing is raised while something is in hand: it would be lost.
        brought = [one for one in self._polls.take(ready, limit) if one.sure_until > now]
        open_ = [queue for queue in (*look, *long) if queue.removesuffix(LONG) not in shut]
        found, failure = self._receives.at_once(open_, limit - len(brought), until)
        leases, unhidden = self._granted([*brought, *found], shut, now, until)
        if self._rung:
            self._polls.want(turn, limit - len(leases))
        trouble = failure or unhidden
        if trouble is not None and not leases:
            raise self._queues.error(trouble)
        self._polls.tell(self._queues.error(told) if (told := trouble or lack) else None)
        sure = lack is None and (not (self._rung or found) or self._polls.found_nothing(turn))
        return contract.Claim(leases, None, sure)

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """Send what follows each message and, once that is stored, delete the message."""
        now, wall_ms = self._calls.now(), self._clock.wall_ms()
        until = now + self._seconds
        first = self._holds.first(settlements, now)
        names = (name for one, hold in first.values() for name in _names(one, hold))
        places = self._queues.places(names, until)
        moves = {i: _move(one, hold, places, wall_ms) for i, (one, hold) in first.items()}
        self._moves.make(list(moves.values()), until)
        for i, (one, hold) in first.items():
            hold.copied |= moves[i].copied
            if (failure := moves[i].failure) is None or failure.over:
                self._holds.end(hold, one.outcome if failure is None else Ack())
            else:
                hold.why = self._queues.why(failure)
        self._queues.heed([move.failure for move in moves.values()], answers=True)
        applied = {i for i, move in moves.items() if move.failure is None}
        return [
            contract.APPLIED if i in applied else self._holds.answer(one.lease, now)
            for i, one in enumerate(settlements)
        ]

    def extend(self, leases: Sequence[Lease]) -> list[contract.Extended]:
        """Hide messages for longer."""
        now, until = self._calls.now(), self._calls.until(self._seconds)
        holds = [self._holds.of(lease, now) for lease in leases]
        held = [(lease, h) for lease, h in zip(leases, holds, strict=True) if isinstance(h, Hold)]
        for lease, hold in held:
            if now + lease.message.visibility_timeout_ms / 1_000 > hold.taken + CEILING_SECONDS:
                self._carry_on(lease, hold, now, (now + until) / 2)  # half is for renewals
        named = [place_of(lease.message.queue, hold.key) for lease, hold in held]
        places = self._queues.places((name for name, _ in named), until)
        items = [
            hiding(places[name], handle, lease.message.visibility_timeout_ms, hold.until)
            for (lease, hold), (name, handle) in zip(held, named, strict=True)
        ]
        said = iter(self._queues.heed(self._moves.hide(items, until), answers=True))
        return [
            self._extended(lease, hold, next(said), now)
            if isinstance(hold, Hold)
            else contract.Lost()
            for lease, hold in zip(leases, holds, strict=True)
        ]

    def bell(self) -> int:
        """Return what is readable when a long poll brought something."""
        self._rung = True
        return self._polls.bell()

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Tell of none: SQS has no place for results."""
        return [None for _ in ids]

    def inspector(self) -> SqsInspector:
        """Return the slow door."""
        return SqsInspector(self._client, self._queues, self._clock)

    def idle(self) -> None:
        """Do nothing: there is nothing to tidy up."""

    def close(self) -> None:
        """Give up the bell; what is under way ends by itself."""
        self._polls.close()

    def _give_back(self, parcels: list[Parcel], until: float | None = None) -> None:
        """Send anew what is not granted, uncounted; what cannot be sent now is back in time."""
        moves = []
        for one in parcels:
            copy = copy_of(one.url, one.message, one.past, one.left_ms, one.sure_until)
            moves.append(Move(one.url, one.handle, one.sure_until, copy))
        self._moves.make(moves, until or self._calls.until())

    def _granted(
        self, parcels: list[Parcel], shut: Collection[str], now: float, until: float
    ) -> tuple[list[Lease], Failure | None]:
        """Grant what is due, hidden for its own time from now on; send the rest on another hop.

        What is of a shut queue or could not be hidden is sent anew; the second value says why not.
        """
        due = {p.handle: p for p in parcels if p.left_ms <= 0 and p.message.queue not in shut}
        left = [one for one in parcels if one.handle not in due]
        why, back = None, [one for one in left if not one.url.endswith(LONG)]  # see FRESH_MS
        hides = [(one, one.message.visibility_timeout_ms) for one in due.values() if one.odd]
        items = [hiding(one.url, one.handle, ms, one.sure_until) for one, ms in hides]
        half = self._calls.half(until)
        for (one, ms), failure in zip(hides, self._moves.hide(items, half), strict=True):
            if failure is not None:
                del due[one.handle]
                if not failure.over:
                    why = failure
                    ours = min(one.sure_until, now + ms / 1_000)  # it may be hidden after all
                    back.append(replace(one, sure_until=ours))
        self._give_back(back, until)
        return [self._lease(one, now) for one in due.values()], why

    def _lease(self, parcel: Parcel, now: float) -> Lease:
        message, past = parcel.message, parcel.past
        until = now + message.visibility_timeout_ms / 1_000
        self._receives.usual[message.queue] = whole_seconds(message.visibility_timeout_ms)
        self._seconds = min(self._seconds, max(1.0, message.visibility_timeout_ms / 6_000))
        hold = Hold(parcel.key, now - POLL_SECONDS, until, past.attempts, dict(message.headers))
        return self._holds.granted(message, past, hold, now)

    def _extended(
        self, lease: Lease, hold: Hold, failure: Failure | None, now: float
    ) -> contract.Extended:
        if failure is not None:
            return contract.Lost() if failure.over else contract.Unknown(self._queues.why(failure))
        seconds = lease.message.visibility_timeout_ms / 1_000
        hold.until = now + seconds
        return contract.Held(seconds - (self._calls.now() - now))

    def _carry_on(self, lease: Lease, hold: Hold, now: float, until: float) -> None:
        """Let a copy take the message's place, to be hidden anew for twelve hours."""
        message, (name, handle) = lease.message, place_of(lease.message.queue, hold.key)
        places = self._queues.places((name, message.queue + LONG), until)
        past = wire.Past(lease.fence - 1, lease.failures, lease.crashes, lease.lost, hold.attempts)
        away = places[message.queue + LONG]
        copy = copy_of(away, message, past, 0, hold.until, fresh_ms=FRESH_MS)
        seconds = whole_seconds(message.visibility_timeout_ms)
        hold.sent, key = self._carrier.met(copy, hold.sent, seconds, until)
        if key is not None:
            hold.key, hold.taken = AWAY + key, now
            self._moves.make([Move(places[name], handle, hold.until)], until)

    def _refusal(self, message: Message) -> str | None:
        why = checks.refusal(message, self.capabilities)
        if why is None and message.queue.endswith(RESERVED):
            return f"queue name {message.queue!r}: what ends so holds dead letters or long leases"
        if why is None and len(wire.body_of(message.args)[0]) > self.capabilities.payload_limit:
            return "the arguments are over the limit in base64, as they are no text of XML's"
        return why


def _names(one: Settlement, hold: Hold) -> tuple[str, str]:
    """Return the queues that a settlement needs the addresses of: where it is, where it goes."""
    queue, here = one.lease.message.queue, place_of(one.lease.message.queue, hold.key)[0]
    if isinstance(one.outcome, Ack) or hold.copied:
        return here, here
    return here, queue + DEAD if isinstance(one.outcome, DeadLetter) else queue


def _move(one: Settlement, hold: Hold, places: dict[str, Place], wall_ms: int) -> Move:
    """Return what a settlement comes to."""
    lease, outcome, headers = one.lease, one.outcome, hold.headers
    message = lease.message if headers is None else replace(lease.message, headers=headers)
    here, there = _names(one, hold)
    move = Move(places[here], place_of(message.queue, hold.key)[1], hold.until)
    if isinstance(outcome, Ack) or hold.copied:
        return move
    past = wire.next_past(lease, hold.attempts, outcome, wall_ms)
    if isinstance(outcome, DeadLetter):
        move.copy = dead_copy_of(places[there], message, past, outcome, hold.until)
    else:
        delay_ms = max(0, min(outcome.delay_ms, MAX_DURATION_MS))
        move.copy = copy_of(places[there], message, past, delay_ms, hold.until)
    return move
