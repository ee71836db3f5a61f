"""The RabbitMQ broker: the verbs of the contract.

Owns: the two connections, the holder's time of each lease, and what the server's silence means.
Must never: call something stored or settled that the server has not confirmed.
Called by: pump, producer and command line, through the contract.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from pika.exceptions import AMQPError

from dibs.alike import runs_of
from dibs.brokers import checks, contract
from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.rabbitmq.inspector import RabbitInspector
from dibs.clock import Clock
from dibs.errors import BrokerFull
from dibs.message import Ack, DeadLetter, Lease, Message, Release, Result, Settlement, TaskInfo
from dibs.wires.amqp import letters
from dibs.wires.amqp.address import CONSUMER_TIMEOUT_SECONDS, Address
from dibs.wires.amqp.bell import Bell
from dibs.wires.amqp.inbox import Inbox
from dibs.wires.amqp.intake import Intake, Moment
from dibs.wires.amqp.ladder import RUNGS_MS, Ladder
from dibs.wires.amqp.meaning import meaning
from dibs.wires.amqp.post import KEEPING, PERSISTENT, Post
from dibs.wires.amqp.press import Fate, Press, Sheet
from dibs.wires.amqp.wire import Blocked, Limit, TooLate, Wire

_BATCH = 2_000
_LOST = (AMQPError, TooLate, OSError)
_LONGEST_HEARTBEAT_SECONDS = 10
_SHORTEST_HEARTBEAT_SECONDS = 3  # a pump may be silent for 5 s, which loses every lease at less
_SHORTEST_CALL_SECONDS = 0.5
W = TypeVar("W", bound=Wire)
_ANSWERS: dict[Fate, contract.Published] = {"stored": contract.STORED}


def capabilities_of(consumer_timeout: int) -> Capabilities:
    """Return what a server can do, as far as it can be known from here.

    A run must end well before the server takes its message back: a job may have waited before it.
    """
    longest = consumer_timeout * 900 or None
    return Capabilities(
        durability="D2",
        durability_note="quorum queues, every publish confirmed; D3 on a cluster of three",
        batch_limit=_BATCH,
        payload_limit=1_048_576,
        longest_run_ms=longest,
        atomic_batches=False,
        atomic_retry=False,
        native_fence=False,
        unique_ids=False,
        ordered=False,
        takes_ahead=True,
        attend_seconds=1.0,
        tells_next=False,
        leases_outlive=False,
        purges_scheduled=False,
        exact_counts=False,
        priorities=False,
        unique_keys=False,
        results=False,
        browsing=False,
    )


class RabbitBroker(contract.Broker):
    """One connection publishes; the other takes deliveries, and goes on when the server is full."""

    capabilities = capabilities_of(CONSUMER_TIMEOUT_SECONDS)

    def __init__(
        self,
        address: Address,
        *,
        clock: Clock,
        worker_id: bytes,
        rungs_ms: Sequence[int] = RUNGS_MS,
    ) -> None:
        self.url = address.shown
        self.capabilities = capabilities_of(address.consumer_timeout)
        self._address = address
        self._clock = clock
        self._post = Post(address.prefix, Ladder(address.prefix, rungs_ms))
        self._intake = Intake(self._post, self._receiving, self._publishing)
        self._limit = Limit(contract.CALL_LIMIT_SECONDS)
        self._epoch = int.from_bytes(worker_id[:4], "big") >> 1
        self._press: Press | None = None
        self._inbox: Inbox | None = None
        self._bell: Bell | None = None
        self._declared: set[str] = set()
        self._heartbeat_seconds = _LONGEST_HEARTBEAT_SECONDS
        with self._call():
            self.created = not self._post.found_store(self._publishing())

    def declare(self, queues: Sequence[str]) -> None:
        """Make queues; refuse those that somebody made otherwise."""
        checks.queue_names(queues)
        with self._call():
            self._declare(queues)

    def expect(self, tasks: Sequence[TaskInfo]) -> None:
        """Have a holder that fell silent be noticed within its lease: after three heartbeats."""
        shortest_ms = min(task.visibility_timeout_ms for task in tasks)
        third = max(_SHORTEST_HEARTBEAT_SECONDS, shortest_ms // 3_000)
        self._heartbeat_seconds = min(self._heartbeat_seconds, third)

    def publish(self, messages: Sequence[Message]) -> list[contract.Published]:
        """Publish, and wait for all confirms."""
        checks.how_many(len(messages), self.capabilities)
        wall_ms = self._clock.wall_ms()
        refused = checks.refusals(runs_of(messages), self.capabilities)
        fit = [m for m, why in zip(messages, refused, strict=True) if why is None]
        fates: list[Fate] = []
        if fit:
            with self._call():
                self._declare(sorted({message.queue for message in fit}))
                sheets = [self._first(message, wall_ms) for message in fit]
                press = self._publishing()
                if press.blocked:
                    raise Blocked("the server is out of memory or disk")
                fates = self._post.send(press, sheets, patient=True)
        if fates and fates.count("refused") == len(fates):
            raise BrokerFull(f"{self.url} takes no more: a policy limits the queue")
        told = iter(fates)
        return [
            _ANSWERS.get(next(told), contract.UNKNOWN) if why is None else contract.Refused(why)
            for why in refused
        ]

    def claim(self, queues: Sequence[str], limit: int) -> contract.Claim:
        """Take from what was delivered; where that is nothing, have a fair share delivered."""
        at = Moment(self._clock.wall_ms(), self._clock.monotonic())
        queues = [queue for queue in dict.fromkeys(queues) if contract.QUEUE_NAME.fullmatch(queue)]
        with self._call():
            if self._bell:
                self._bell.drain()
            if limit > 0:
                self._declare(queues)
            rung = self._bell is not None
            leases = self._intake.claim(queues, min(limit, _BATCH), at, rung=rung)
            for lease in leases:
                self._hurry(lease.message)
            self._ring_for_more()
        return contract.Claim(leases, None)

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """Store the copies of what goes on, end the deliveries, and ask whether that arrived."""
        wall_ms, now = self._clock.wall_ms(), self._clock.monotonic()
        answers: list[contract.Settled] = [contract.STALE for _ in settlements]
        inbox = self._living(self._inbox)
        if inbox is None:
            return answers
        taken: dict[int, int] = {}
        for index, settlement in enumerate(settlements):
            tag = _tag(inbox, settlement.lease)
            if tag in taken:
                ended = isinstance(settlements[taken[tag]].outcome, Ack | DeadLetter)
                answers[index] = contract.GONE if ended else contract.STALE
            elif inbox.is_gone(tag):
                answers[index] = contract.GONE
            elif self._holds(inbox, tag, settlement.lease, now):
                taken[tag], answers[index] = index, contract.UNKNOWN
        ends = {tag: settlements[index] for tag, index in taken.items()}
        if not ends:
            return answers
        self._limit.restart()
        with suppress(*_LOST, Blocked):
            for tag in self._end(inbox, ends, wall_ms):
                answers[taken[tag]] = contract.APPLIED
        self._ring_for_more()
        return answers

    def extend(self, leases: Sequence[Lease]) -> list[contract.Extended]:
        """Count on from now, once the server has shown that it still counts on us."""
        now = self._clock.monotonic()
        inbox = self._living(self._inbox)
        if inbox is None:
            return [contract.Lost() for _ in leases]
        with self._call():
            inbox.prove()
        self._ring_for_more()
        return [self._extended(inbox, lease, now) for lease in leases]

    def bell(self) -> int:
        """Return a descriptor that hears both connections."""
        if self._bell is None:
            self._bell = Bell()
            for wire in (self._press, self._inbox):
                if wire is not None and wire.why is None:
                    self._bell.add(wire.fileno())
        return self._bell.fileno()

    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Nothing is known of how messages ended."""
        return [None for _ in ids]

    def inspector(self) -> RabbitInspector:
        """Return the slow door."""
        return RabbitInspector(
            self._address, self._post, self._call, self._publishing, self._another
        )

    def idle(self) -> None:
        """Let the server know that we live, and give back what ran out."""
        inbox = self._living(self._inbox)
        self._living(self._press)
        if inbox is not None:
            with self._call():
                self._intake.tidy(inbox, self._clock.monotonic())
                inbox.step()
        self._ring_for_more()

    def close(self) -> None:
        """Put back what nobody was granted, and say goodbye."""
        self._limit.restart()
        if (inbox := self._living(self._inbox)) is not None:
            with suppress(*_LOST):
                self._intake.rest(inbox)
        for wire in (self._inbox, self._press):
            if wire is not None and wire.why is None:
                wire.say_goodbye()
        self._inbox = self._press = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._limit.restart()
        try:
            yield
        except (*_LOST, Blocked) as lost:
            raise meaning(lost, self.url) from lost

    def _declare(self, queues: Sequence[str]) -> None:
        new = [queue for queue in queues if queue not in self._declared]
        with suppress(Blocked):  # who claims goes on without, who publishes is told
            if new:
                self._post.declare(self._publishing(), new)
                self._declared.update(new)

    def _first(self, message: Message, wall_ms: int) -> Sheet:
        body = letters.write(letters.Body(message))
        if message.due_ms > wall_ms:
            past = letters.Past(due_ms=message.due_ms)
            return self._intake.delayed(message.queue, past, body, wall_ms)
        return Sheet("", self._post.name("q", message.queue), PERSISTENT, body)

    def _end(self, inbox: Inbox, ends: dict[int, Settlement], wall_ms: int) -> Iterator[int]:
        """End leases; yield the tags of those of which the server has said that it knows.

        Acknowledgements come first: a copy that cannot be stored must not leave them unsure, for a
        tag that was ended here is `Gone` when it is asked for again.
        """
        queues = {tag: inbox.unsettled[tag].queue for tag in ends}
        acked = [tag for tag, end in ends.items() if type(end.outcome) is Ack]
        inbox.acknowledge(acked)
        yield from self._written(inbox, acked, queues)
        others = [tag for tag, end in ends.items() if type(end.outcome) is not Ack]
        if others:
            copies = {tag: self._copy(inbox, tag, ends[tag], wall_ms) for tag in others}
            copied = self._intake.replace(inbox, copies)
            inbox.note_returns(t for t in copied if not isinstance(ends[t].outcome, DeadLetter))
            yield from self._written(inbox, copied, queues)

    def _written(self, inbox: Inbox, tags: list[int], queues: dict[int, str]) -> list[int]:
        """Return tags that were ended, once the server has written that down."""
        if tags:
            names = {queues[tag]: self._post.name("q", queues[tag]) for tag in tags}
            inbox.write_down(names, self._post.empty, KEEPING)
        return tags

    def _copy(self, inbox: Inbox, tag: int, end: Settlement, wall_ms: int) -> Sheet:
        """Return what follows a lease that does not end in an acknowledgement."""
        lease, outcome, held = end.lease, end.outcome, inbox.unsettled[tag]
        assert not isinstance(outcome, Ack)
        charge = "nothing" if isinstance(outcome, Release) else outcome.charge
        body = held.body
        if not isinstance(outcome, Release):
            body = letters.with_attempt(body, lease.fence, wall_ms, outcome, contract.ATTEMPTS_KEPT)
        if isinstance(outcome, DeadLetter):
            past = letters.after(lease, charge)
            return self._intake.dead(held.queue, past, body, outcome.reason, outcome.error)
        delay_ms = max(0, min(outcome.delay_ms, MAX_DURATION_MS))
        past = letters.after(lease, charge, wall_ms + delay_ms if delay_ms else 0)
        if delay_ms:
            return self._intake.delayed(held.queue, past, body, wall_ms)
        return Sheet("", self._post.name("q", held.queue), letters.properties_of(past), body)

    def _holds(self, inbox: Inbox, tag: int, lease: Lease, now: float) -> bool:
        held = inbox.unsettled.get(tag)
        return held is not None and held.fence == lease.fence and held.until > now

    def _extended(self, inbox: Inbox, lease: Lease, now: float) -> contract.Extended:
        tag = _tag(inbox, lease)
        held = inbox.unsettled.get(tag)
        longest = self._address.consumer_timeout or float("inf")
        if held is None or not self._holds(inbox, tag, lease, now) or now > held.arrived + longest:
            return contract.Lost()
        held.until = max(held.until, now + lease.message.visibility_timeout_ms / 1_000)
        return contract.Held(held.until - now)

    def _hurry(self, message: Message) -> None:
        """Let no call take a lease's time; but have patience, for to give up loses them all."""
        sixth = max(_SHORTEST_CALL_SECONDS, message.visibility_timeout_ms / 6_000)
        self._limit.seconds = min(self._limit.seconds, sixth)

    def _publishing(self) -> Press:
        press = self._living(self._press)
        if press is None:
            press = self._press = Press(self._address.with_heartbeat(0), self._limit)
            self._hear(press)
        return press

    def _receiving(self) -> Inbox:
        inbox = self._living(self._inbox)
        if inbox is None:
            self._epoch = (self._epoch + 1) % 2**31
            address = self._address.with_heartbeat(self._heartbeat_seconds)
            inbox = self._inbox = Inbox(address, self._limit, self._epoch)
            inbox.count(self._post.empty, KEEPING)
            self._hear(inbox)
        return inbox

    def _another(self) -> Inbox:
        return Inbox(self._address.with_heartbeat(0), self._limit, 0)

    def _living(self, wire: W | None) -> W | None:
        """Return a connection, if it has not ended: by what has come, which is taken in."""
        if wire is not None:
            with suppress(*_LOST):
                wire.step()
        return wire if wire is not None and wire.why is None else None

    def _ring_for_more(self) -> None:
        """Ring for what came while the server was asked something else: its socket is read."""
        if self._bell and self._inbox and self._inbox.buffered():
            self._bell.ring()

    def _hear(self, wire: Wire) -> None:
        if self._bell is not None:
            self._bell.add(wire.fileno())


def _tag(inbox: Inbox, lease: Lease) -> int:
    return lease.receipt - inbox.epoch if isinstance(lease.receipt, int) else 0
