"""What arrives, and who is granted it.

Owns: when messages are asked for and how many, what becomes of those that came too early or cannot
be read, and that nobody keeps what he has no room for.
Must never: let go of a message whose copy is not confirmed.
Called by: the adapter.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct
from pika.exceptions import AMQPError

from dibs.errors import BrokerRefused
from dibs.message import Error, Lease
from dibs.wires.amqp import letters
from dibs.wires.amqp.inbox import Delivery, Inbox
from dibs.wires.amqp.post import KEEPING, Post
from dibs.wires.amqp.press import Press, Sheet
from dibs.wires.amqp.turns import Turns
from dibs.wires.amqp.wire import Blocked, TooLate

_LOOK_SECONDS = 1.0


class Moment(Struct, frozen=True):
    """When a claim was made, on the wall clock and on the monotonic one."""

    wall_ms: int
    now: float


class Intake:
    """What one holder is granted; `inbox` and `press` are connected when they are asked for."""

    def __init__(self, post: Post, inbox: Callable[[], Inbox], press: Callable[[], Press]) -> None:
        self._post = post
        self._inbox = inbox
        self._press = press
        self._turns = Turns()
        self._heard: Sequence[str] = ()
        """What the last claim is rung for, and when it was looked for last."""
        self._looked_at = -math.inf
        self._soonest = math.inf
        """When the first lease here runs out, or earlier."""
        self._wants = False
        """Whether the last claim was for anything."""

    def claim(self, queues: Sequence[str], limit: int, at: Moment, *, rung: bool) -> list[Lease]:
        """Grant up to `limit` messages, and have more delivered if they are to ring.

        Once something is granted, only its loss is raised: of a lease that lives the caller hears.
        """
        inbox = self._inbox()
        self._wants = limit > 0
        leases: list[Lease] = []
        just_looked = self._heard == queues and at.now - self._looked_at < _LOOK_SECONDS
        # Nobody listens to a queue that somebody deleted, until a look has made it again; nor where
        # as much is stuck as there is room for.
        stuck = {queue for queue, tags in inbox.stuck.items() if tags}
        heard = just_looked and (inbox.consumers.keys() | stuck) >= set(queues)
        try:
            if heard and inbox.buffered():
                # Whoever was rung is answered at once: what comes later rings again.
                there = {queue: len(inbox.ready[queue]) for queue in queues}
                aside = self._grant(inbox, self._turns.shares(there, limit), leases, at)
                self._send_on(inbox, aside, at.wall_ms, queues)
            elif limit > 0 and queues:
                queues = self._open(inbox, queues)
                self.give_back(inbox, at.now, queues)
                inbox.free(queues)
                self._fetch(inbox, queues, limit, leases, at)
                self._looked_at = at.now
            wanted = limit - len(leases) if rung else 0
            if wanted > 0:
                self._listen(inbox, queues, wanted)
            elif limit <= 0 or not rung or inbox.at_hand():
                self.rest(inbox)
        except (AMQPError, TooLate, OSError, BrokerRefused):
            if not leases or inbox.why is not None:
                raise
        return leases

    def tidy(self, inbox: Inbox, now: float) -> None:
        """Let others have what ran out, and what a queue gave that was asked what it has written.

        A worker that stops wants nothing more, and that would wait for its exit.
        """
        self.give_back(inbox, now)
        if not self._wants:
            self.rest(inbox)

    def give_back(self, inbox: Inbox, now: float, queues: Sequence[str] | None = None) -> None:
        """Let others have the messages whose leases ran out."""
        if now < self._soonest:
            return
        inbox.give_back(
            [
                tag
                for tag, held in inbox.unsettled.items()
                if held.fence and held.until <= now and (not queues or held.queue in queues)
            ]
        )
        held = [one.until for one in inbox.unsettled.values() if one.fence]
        self._soonest = min(held, default=math.inf)

    def rest(self, inbox: Inbox) -> None:
        """Have nothing more delivered, and put back what nobody was granted."""
        self._heard = ()
        for queue in list(inbox.consumers):
            inbox.mute(queue)
        self._put_back(inbox, inbox.ready.keys() | inbox.stuck.keys())

    def replace(self, inbox: Inbox, copies: Mapping[int, Sheet]) -> list[int]:
        """Store copies, then end what they are copies of; return the tags of those.

        The server is asked first whether the deliveries are ours still. One that has closed their
        connection has given their messages to others, and a copy would be one more of each
        (test_rule_09_a_holder_that_was_given_up_stores_no_copies).
        """
        inbox.prove()
        fates = self._post.send(self._press(), list(copies.values()), patient=False)
        stored = [tag for tag, fate in zip(copies, fates, strict=True) if fate == "stored"]
        inbox.acknowledge(stored)
        return stored

    def _open(self, inbox: Inbox, queues: Sequence[str]) -> list[str]:
        """Return the queues that are not paused; be rung when one of the others is resumed."""
        paused = self._post.paused(self._press(), queues)
        self._put_back(inbox, paused)
        return [queue for queue in queues if queue not in paused]

    def _fetch(
        self,
        inbox: Inbox,
        queues: Sequence[str],
        limit: int,
        leases: list[Lease],
        at: Moment,
    ) -> None:
        """Grant each queue's share of what is there; look again while some were sent on.

        What came too early has used up a turn of its queue. To make that good would let a queue of
        much that is delayed keep the others waiting for as long as a call lasts.
        """
        early = 1
        while early and len(leases) < limit and inbox.limit.left() > inbox.limit.seconds / 2:
            there = {queue: self._count(inbox, queue) for queue in queues}
            shares = self._turns.shares(there, limit - len(leases))
            for queue, share in shares.items():
                if share > len(inbox.ready[queue]):
                    inbox.fetch(queue, share, self._post.name("q", queue), KEEPING)
            aside = self._grant(inbox, shares, leases, at)
            early = self._send_on(inbox, aside, at.wall_ms, queues)

    def _count(self, inbox: Inbox, queue: str) -> int:
        return inbox.count(self._post.name("q", queue), KEEPING) + len(inbox.ready[queue])

    def _grant(
        self, inbox: Inbox, shares: Mapping[str, int], leases: list[Lease], at: Moment
    ) -> dict[int, Exception | None]:
        """Grant what lies here up to each share; return the others, and why they are none."""
        aside: dict[int, Exception | None] = {}
        for queue, share in shares.items():
            ready = inbox.ready[queue]
            for _ in range(min(share, len(ready))):
                tag = ready.popleft()
                try:
                    lease = self._lease(inbox, tag, at)
                except letters.ODD as odd:
                    aside[tag] = odd
                    continue
                if lease is None:
                    aside[tag] = None
                else:
                    leases.append(lease)
        return aside

    def _send_on(
        self,
        inbox: Inbox,
        aside: Mapping[int, Exception | None],
        wall_ms: int,
        queues: Sequence[str],
    ) -> int:
        """Send on what came too early or cannot be read; return of how many that is done."""

        def copy(tag: int, held: Delivery) -> Sheet:
            return self._onward(held, aside[tag], wall_ms)

        return self._move(inbox, aside, copy, queues)

    def _move(
        self,
        inbox: Inbox,
        tags: Collection[int],
        copy: Callable[[int, Delivery], Sheet],
        queues: Collection[str],
    ) -> int:
        """Have copies take the places of messages that nobody was granted; return of how many.

        Those of which that cannot be now are stuck here until a later look. A full server is no
        error of whoever claims. Nothing more is to come of `queues`, of which they are, before the
        messages are ended, which makes room: the server counts a loss of what is on its way to a
        consumer that ends (test_rule_14_what_was_never_granted_counts_as_no_loss).
        """
        stored: list[int] = []
        try:
            with suppress(Blocked):
                if tags:
                    for queue in queues:
                        inbox.mute(queue)
                    copies = {tag: copy(tag, inbox.unsettled[tag]) for tag in tags}
                    stored = self.replace(inbox, copies)
        finally:
            for tag in set(tags).difference(stored):
                inbox.stuck[inbox.unsettled[tag].queue].append(tag)
        return len(stored)

    def _lease(self, inbox: Inbox, tag: int, at: Moment) -> Lease | None:
        """Grant a message; None of one that came too early."""
        held = inbox.unsettled[tag]
        past = letters.past_of(held.properties)
        if past.due_ms > at.wall_ms:
            return None
        message = letters.read(held.body).message
        held.fence = past.fence + 1
        held.until = at.now + message.visibility_timeout_ms / 1_000
        held.arrived = at.now
        self._soonest = min(self._soonest, held.until)
        counters = (held.fence, past.failures, past.crashes, past.lost)
        return Lease(message, *counters, int(held.until * 1_000), inbox.epoch + tag)

    def _onward(self, held: Delivery, odd: Exception | None, wall_ms: int) -> Sheet:
        """Return where a message goes that came too early, or is `odd`: it cannot be read."""
        past = letters.past_if_any(held.properties) or letters.Past()
        if odd is None:
            return self.delayed(held.queue, past, held.body, wall_ms)
        error = Error(type(odd).__name__, f"not a message of dibs: {odd}")
        return self.dead(held.queue, past, held.body, "undecodable", error)

    def delayed(self, queue: str, past: letters.Past, body: bytes, wall_ms: int) -> Sheet:
        """Return a message for the rung of the ladder that its due time asks for."""
        rung, expires_ms = self._post.rung(self._press(), past.due_ms - wall_ms)
        properties = letters.properties_of(past, expires_ms=expires_ms)
        return Sheet(rung, self._post.name("q", queue), properties, body)

    def dead(self, queue: str, past: letters.Past, body: bytes, reason: str, error: Error) -> Sheet:
        """Return a dead letter."""
        name = self._post.dead(self._press(), queue)
        more = {"reason": reason, "error": letters.shown(error)}
        return Sheet("", name, letters.properties_of(past, more=more), body)

    def _put_back(self, inbox: Inbox, queues: Collection[str]) -> None:
        """Put back as copies what nobody was granted: to reject it would count as a loss."""
        inbox.free(queues)
        tags = [tag for queue in queues for tag in inbox.ready.pop(queue, ())]
        self._move(inbox, tags, self._same, queues)

    def _same(self, _: int, held: Delivery) -> Sheet:
        past = letters.past_if_any(held.properties)
        properties = held.properties if past is None else letters.properties_of(past)
        return Sheet("", self._post.name("q", held.queue), properties, held.body)

    def _listen(self, inbox: Inbox, queues: Sequence[str], wanted: int) -> None:
        """Have `wanted` more delivered of each queue, and nothing of others."""
        # What is not claimed any more rings no more. It may lie here without a wish for it.
        for queue in (inbox.consumers.keys() | inbox.ready.keys()) - set(queues):
            inbox.mute(queue)
            self._put_back(inbox, [queue])
        for queue in queues:
            # What is stuck takes room: else all that is delayed would come to lie here.
            lacking = wanted - len(inbox.stuck.get(queue, ()))
            # A new consumer costs three requests: the old one will do unless it hoards, or lacks.
            if lacking > 0 and not lacking <= inbox.credit(queue) <= 2 * wanted:
                inbox.listen(queue, self._post.name("q", queue), lacking)
        self._heard = queues
