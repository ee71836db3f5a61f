"""The broker contract: the law that every adapter keeps and the worker relies on.

Owns: the `Broker` and `Inspector` interfaces, the values they answer with, and the limits that are
the same for every broker (`checks` holds messages to them).
Must never: import an adapter, the worker or user code.
Called by: the pump, the producer's facade, the command line, one's own consumers (see
docs/own-consumer.md), and the conformance suite in `dibs.testing`, which holds each guarantee.

Guarantees, numbered as in docs/contract.md:

G1  `publish` answers `Stored` only when the message is as durable as `Capabilities.durability`.
G2  One id, and one live unique key, is one message: a second publish answers `Duplicate`.
G3  `claim` never waits, and grants a message to one holder at a time: hidden from all others until
    its lease is settled or has run out.
G4  Every claim of a message raises its fence by one. A settlement or extension with another fence
    than the current one changes nothing (`Stale`), and of a message that is gone, `Gone`.
G5  A lease that ran out, and was not granted again, may still be settled or extended by its holder.
G6  Every move is one atomic step: a message is in exactly one state at any moment.
G7  Counters: `Nack` and `DeadLetter` raise what they charge; `lost` is raised by the claim that
    runs over an expired lease, in the same step; `Release` counts nothing.
G8  Within a queue: by priority, then in publish order; a returned message keeps its place. Several
    queues are served in turn.
G9  Never early: no message is granted before its due time or before its holder's lease has ended.
G10 After `Applied` for an `Ack` the message is never granted again, also after a crash within the
    durability level.
G11 Bytes come back as they were published.
G12 Every call ends, in an answer or an exception of `errors.BrokerError`, within
    `CALL_LIMIT_SECONDS`.
G13 What people do is guarded as what workers do: it moves only what is still where they saw it. A
    redriven message keeps its id and its fence goes on growing; no lease is ever purged; a paused
    queue is not claimed from, whatever restarts, and holds up no other.
G14 Every `Nack` and `DeadLetter` that takes effect is noted as an `Attempt`, in the same step: the
    last `ATTEMPTS_KEPT` of a message, for as long as the message is there.
G15 `results` says of each id None while its message is ready, scheduled or in flight, and otherwise
    how it ended: its result, for its time; its dead letter; or that nothing is kept. A result is
    kept in the step that applies its `Ack`, under the id of the message and that of a `Record`.

A Broker object belongs to one thread at a time and takes no locks for its caller.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from dibs.brokers.capabilities import Capabilities
from dibs.errors import OptionError
from dibs.message import (
    DeadMessage,
    JobView,
    Lease,
    Message,
    QueueCounts,
    Result,
    Settlement,
    TaskInfo,
)
from dibs.states import State

CALL_LIMIT_SECONDS = 5.0
MIN_VISIBILITY_TIMEOUT_MS = 1_000
LATEST_DUE_MS = 253_402_300_799_000
MAX_BUDGET = 1_000_000
MAX_VERSION = 2**31
MAX_HEADERS = 64
MAX_HEADER_BYTES = 8_192
QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
MAX_NAME_BYTES = 512
ATTEMPTS_KEPT = 20


class Stored(Struct, frozen=True, gc=False):
    """The message is durable."""


class Duplicate(Struct, frozen=True, gc=False):
    """The message with `id` has this id or unique key; nothing was stored."""

    id: bytes


class Refused(Struct, frozen=True, gc=False):
    """The message breaks a rule of this broker; nothing was stored."""

    why: str


class Unknown(Struct, frozen=True, gc=False):
    """The answer was lost. The request may or may not have taken effect.

    `why` it is not known, or why it could not be done now; for people.
    """

    why: str = ""


class Applied(Struct, frozen=True, gc=False):
    """The settlement took effect. `late`: after the lease ran out, before another claim."""

    late: bool = False


class Stale(Struct, frozen=True, gc=False):
    """The fence is not the current one: the message is another holder's. Nothing changed."""


class Gone(Struct, frozen=True, gc=False):
    """The message is no longer there.

    That is success if this holder's earlier try ended `Unknown`, and a lost lease otherwise.
    """


class Held(Struct, frozen=True, gc=False):
    """The lease lasts `seconds` from now, on the broker's clock."""

    seconds: float


class Lost(Struct, frozen=True, gc=False):
    """The lease is not this holder's any more."""


STORED, APPLIED, STALE, GONE, UNKNOWN = Stored(), Applied(), Stale(), Gone(), Unknown()
"""The answers without a detail, made once: batches of thousands are full of them."""

Published = Stored | Duplicate | Refused | Unknown
Settled = Applied | Stale | Gone | Unknown
Extended = Held | Lost | Unknown


class Claim(Struct, frozen=True):
    """What a claim found, and after how many seconds to look again if no bell rings.

    `next_in` is None where nothing stored falls due by itself. Not `sure`: more may be on its way.
    `still_asks`: though full, it may be rung or handed something until a claim of 0 has worked.
    """

    leases: list[Lease]
    next_in: float | None
    sure: bool = True
    still_asks: bool = False


class CallersConnection(Protocol):
    """A connection to a database that is a caller's own, whatever library it is of."""

    dialect: str
    """ "sqlite", "postgresql", or what else its library calls the database."""

    def rows(self, sql: str, *values: str | int | None) -> list[tuple[Any, ...]]:
        """Run a statement with a `?` for each value; return its rows."""
        ...


class Broker(ABC):
    """A store of queues: four hot verbs and a bell. Use it by hand as in docs/own-consumer.md.

    Attributes:
        url: where it is, without secrets; for people.
        capabilities: what it can do.
        created: whether opening it created the store.
    """

    url: str
    capabilities: Capabilities
    created: bool

    @abstractmethod
    def declare(self, queues: Sequence[str]) -> None:
        """Make `queues` ready and check what the broker is set to.

        Raises:
            OptionError: a queue's name is not `[A-Za-z0-9_-]{1,60}`.
            BrokerRefused: a setting would break the contract; the text says how to mend it.
        """

    def expect(self, tasks: Sequence[TaskInfo]) -> None:
        """Say before `declare` whose jobs will be claimed here: of one task at least.

        A worker knows it. It matters where a lease ends with its holder's connection, which has to
        show within the shortest lease that the holder lives; and where the server itself gives up
        what is lost often: `declare` refuses a queue that does so before a task's `max_lost`.
        """
        del tasks  # elsewhere a lease ends by the store's own clock, and losses are counted alone

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> list[Published]:
        """Store messages; one answer for each, in order (G1, G2).

        Raises:
            BrokerFull, BrokerBusy, BrokerUnavailable: nothing was stored.
            PublishUnknown: nobody can tell; publish the same ids again.
        """

    def publish_on(
        self, connection: CallersConnection, messages: Sequence[Message]
    ) -> list[Published]:
        """Store messages by `connection`, seen by all if and only if its transaction commits.

        Nothing else is used than that connection, so any thread may call it. `Stored` is as durable
        as that commit; whoever waits is rung by it.

        Raises:
            OptionError: without `Capabilities.transactional_publish`; or it leads elsewhere.
        """
        del connection, messages
        raise OptionError(
            f"{self.url} cannot store a job in a transaction of yours: `connection=` needs a"
            " broker that is in the same database, as `postgresql://` can be"
        )

    @abstractmethod
    def claim(self, queues: Sequence[str], limit: int) -> Claim:
        """Grant up to `limit` messages of `queues`; never waits (G3, G4, G8, G9).

        A claim that got less than its limit is rung for what comes next; one that got all of it is
        not, for it has no room: so a claim of 0 says not to be rung any more. Where a broker
        `takes_ahead`, one that found nothing may be handed a message with a ring, its lease running
        already: a claim with room for it grants it, and one of 0 gives it back.
        """

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """End leases; one answer for each, in order (G4 to G7, G10)."""

    @abstractmethod
    def extend(self, leases: Sequence[Lease]) -> list[Extended]:
        """Renew leases: expiry = max(current, now + the message's visibility timeout)."""

    @abstractmethod
    def bell(self) -> int:
        """Return a file descriptor that is readable when `claim` or `results` may yield something.

        It belongs to the broker: wait on it, never read it; `claim` and `results` drain it, so
        whoever uses one broker for both calls both. A bell may be lost with the process that rang
        it, so a waiter also looks once a second.
        """

    @abstractmethod
    def results(self, ids: Sequence[bytes]) -> list[Result | None]:
        """Say how messages ended, one answer for each id, in order; None is not yet (G15).

        A broker whose bell was asked for is rung when one of those that were None in its last call
        is acknowledged or given up: at once, also if it happens while this call is under way. That
        holds for the first `Capabilities.batch_limit` of them. Without `Capabilities.results` every
        answer is None.
        """

    @abstractmethod
    def inspector(self) -> "Inspector":
        """Return the slow door that people and dashboards use."""

    @abstractmethod
    def idle(self) -> None:
        """Do what can wait for a quiet moment (give space back); bounded, a few milliseconds."""

    @abstractmethod
    def close(self) -> None:
        """Give up the broker's descriptors; leases stay as they are. Closing twice is harmless."""


class Page(Struct, frozen=True):
    """A part of a listing. `next` is where the part after it begins, None if this is the last."""

    jobs: list[JobView]
    next: str | None


class Redriven(Struct, frozen=True, gc=False):
    """The dead letter is ready again, under its id."""


REDRIVEN = Redriven()
Answered = Redriven | Duplicate | Gone
"""Of a redrive: `Duplicate` names the live job that has its unique key, `Gone` is no dead letter;
neither changed anything."""


class Finding(Struct, frozen=True):
    """Something that a server is set to, and what it means for the contract.

    `verdict`: "good" keeps what is promised; "note" is worth knowing; "bad" would lose jobs or
    break a rule, and `declare` refuses it. `advice` says how to mend what is not good.
    """

    what: str
    found: str
    verdict: Literal["good", "note", "bad"]
    advice: str = ""


class Inspector(ABC):
    """Looking at queues and clearing them up: for people, not for the hot path.

    Without `Capabilities.browsing`, what shows or moves single jobs (`jobs`, `job`, `dead`,
    `redrive`, `discard`) raises `OptionError`: to say that there are none would be a lie.
    """

    @abstractmethod
    def queues(self) -> list[QueueCounts]:
        """Return the counts of every queue, by name."""

    def findings(self) -> list[Finding]:
        """Return what `dibs doctor` shows of the server's settings; nothing where there is none."""
        return []

    @abstractmethod
    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> Page:
        """Return up to `limit` jobs in `state`, of one queue or, queue after queue, of all.

        The ready in the order of claims, the scheduled by due time, those in flight in publish
        order, the dead newest first. `after` is the `next` of the page before; what moves between
        two pages may be missed or seen again, what lies still is seen once.
        """

    @abstractmethod
    def job(self, id: bytes) -> JobView | None:
        """Return one job, wherever it is; None if it is gone."""

    def dead(self, queue: str | None = None, limit: int = 100) -> list[DeadMessage]:
        """Return dead letters, newest first."""
        return [_dead_letter(view) for view in self.jobs(queue, State.DEAD, limit).jobs]

    @abstractmethod
    def redrive(self, ids: Sequence[bytes]) -> list[Answered]:
        """Send dead letters back to their queues; one answer for each, in order.

        Its failures, crashes and losses are 0 again, its place in publish order is the old one, and
        its fence goes on from where it was. No more than `Capabilities.batch_limit` at a time.
        """

    @abstractmethod
    def discard(self, ids: Sequence[bytes]) -> int:
        """Remove dead letters for good, the batch limit at most; return how many there were."""

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Remove what is ready or scheduled in `queue`; return how many.

        What is in flight stays, and so does what is published meanwhile. It goes in steps, each as
        short as any call: after an error, what was removed stays removed.
        """

    @abstractmethod
    def pause(self, queue: str) -> None:
        """Let nobody claim from `queue` until it is resumed, and make it known if it is new.

        What is in flight goes on, and publishing does too.

        Raises:
            OptionError: the queue's name is not `[A-Za-z0-9_-]{1,60}`.
        """

    @abstractmethod
    def resume(self, queue: str) -> None:
        """Let `queue` be claimed from again, and ring for it."""


def _dead_letter(view: JobView) -> DeadMessage:
    assert view.reason is not None
    assert view.error is not None
    assert view.since_ms is not None
    counters = (view.fence, view.failures, view.crashes, view.lost)
    why = (view.reason, view.error)
    return DeadMessage(view.message, *why, *counters, view.since_ms, view.attempts)
