"""The page of nouns: every value that crosses a boundary of dibs.

Owns: the frozen values that producers, brokers, pump and runners hand to each other.
Must never: hold logic, read a clock, or know a broker.
Called by: everything.

Times are whole milliseconds, `*_ms`. A point in time (`due_ms`, `expiry_ms`) is on the broker's
clock; a duration may be counted on any monotonic clock. The structs are frozen and untracked by
the garbage collector (`gc=False`: they hold no cycles); making one costs a tenth of a frozen
dataclass, and ten microseconds per job is the whole budget.
"""

from typing import Literal

from msgspec import Struct

from dibs.states import State

ENVELOPE_VERSION = 1

Charge = Literal["nothing", "failure", "crash"]
"""Which counter of the message a settlement raises by one."""

Reason = Literal[
    "max_attempts",
    "max_crashes",
    "max_lost",
    "undecodable",
    "oversized",
    "unknown_task",
    "unknown_version",
    "unencodable_result",
    "rejected",
    "not_retried",
]
"""Why a message was given up on; the first three name the budget that ran out.

`rejected`: by the task itself. `not_retried`: its error is none that the task is tried again for.
"""


Kind = Literal["async", "thread", "process"]
"""Where a task runs: on an event loop, in a thread, or in a killable process of its own."""


class Backoff(Struct, frozen=True, array_like=True):
    """How long a job waits after each failure; made by the functions of `dibs.backoff`.

    `ranges_ms` has the shortest and the longest delay after failure 1, 2, ...; the last pair is for
    all that follow.
    """

    ranges_ms: tuple[tuple[int, int], ...]


class TaskInfo(Struct, frozen=True, array_like=True):
    """What a worker must know of a task without importing it; runners send it up.

    `keep_result_ms` is 0 where no result is kept. `where` is "file:line", for people. `backoff` is
    here for the runs that the pump fails, those that do not end after their timeout. `keep_key_ms`
    is how long the record of an idempotency key is kept, 0 where the task has none. The last four
    are those of its jobs where the call says nothing else.
    """

    name: str
    queue: str
    kind: Kind
    heartbeat: bool
    keep_result_ms: int
    where: str
    backoff: Backoff
    keep_key_ms: int = 0
    priority: int = 0
    visibility_timeout_ms: int = 30_000
    timeout_ms: int = 900_000
    max_lost: int = 10


class Message(Struct, frozen=True, gc=False, array_like=True):
    """A job as it lies in a broker.

    `id` is 16 bytes in UUIDv7 layout: time-ordered ids insert at twice the speed of random ones.
    `args` is a JSON object of the task's parameters by name, so that any language can publish one.
    `due_ms` is wall-clock milliseconds since 1970; 0 means at once. `priority` is 0 to 9, higher
    first. The three `max_*` are budgets, each counted by a counter of its own (see `Lease`).
    `unique_key` holds while the message is ready, scheduled or in flight.
    """

    id: bytes
    queue: str
    task: str
    args: bytes
    due_ms: int = 0
    priority: int = 0
    visibility_timeout_ms: int = 30_000
    timeout_ms: int = 900_000
    max_attempts: int = 5
    max_crashes: int = 3
    max_lost: int = 10
    unique_key: str | None = None
    headers: dict[str, str] = {}
    version: int = ENVELOPE_VERSION


class Lease(Struct, frozen=True, gc=False, array_like=True):
    """One worker's exclusive, time-limited hold on one message, as granted by one claim.

    `fence` is +1 at every claim of the message and never reused. `failures`, `crashes` and `lost`
    are the message's counters as of this claim, `lost` including the lease this claim ran over.
    `expiry_ms` is on the broker's lease clock: a holder never compares it with a clock of its own,
    it counts `message.visibility_timeout_ms` from before the claim left. `receipt` is the
    adapter's own handle; nobody else reads it.
    """

    message: Message
    fence: int
    failures: int
    crashes: int
    lost: int
    expiry_ms: int
    receipt: int | str

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1; a polite return costs nothing."""
        return self.failures + self.crashes + self.lost + 1


class Error(Struct, frozen=True, gc=False, array_like=True):
    """An exception as data: names and text, never an importable object."""

    type: str
    message: str
    traceback: str = ""


class Record(Struct, frozen=True, gc=False, array_like=True):
    """A second id under which a result is kept, and for how long: what an idempotency key names."""

    id: bytes
    keep_ms: int


class Ack(Struct, frozen=True, gc=False, array_like=True, tag="ack"):
    """Done: the message is gone for good. `result` is JSON, kept for `keep_ms` where a broker can.

    `keep_ms` 0 keeps nothing. With a `record` it is kept under that id too, in the same step.
    """

    result: bytes | None = None
    keep_ms: int = 0
    record: Record | None = None


class Nack(Struct, frozen=True, gc=False, array_like=True, tag="nack"):
    """Failed: back to the queue after `delay_ms`, one `charge` counted."""

    delay_ms: int
    error: Error
    charge: Charge = "failure"


class DeadLetter(Struct, frozen=True, gc=False, array_like=True, tag="dead"):
    """Given up: kept with its bytes, this reason and error, and its counters after `charge`."""

    reason: Reason
    error: Error
    charge: Charge = "nothing"


class Release(Struct, frozen=True, gc=False, array_like=True, tag="release"):
    """Given back politely after `delay_ms`; nothing is counted."""

    delay_ms: int = 0


Outcome = Ack | Nack | DeadLetter | Release
"""What became of a lease."""


class Settlement(Struct, frozen=True, gc=False):
    """An outcome and the lease that it ends."""

    lease: Lease
    outcome: Outcome


class Attempt(Struct, frozen=True, gc=False):
    """How one lease of a message ended other than well: when, in what error, at which charge.

    A lease that ran out leaves none: nobody was there to tell.
    """

    fence: int
    at_ms: int
    charge: Charge
    error: Error


class Result(Struct, frozen=True, gc=False):
    """How a job ended: its JSON, or why it was given up on, with its last attempts, oldest first.

    `kept` False: the message is no longer there, and nothing is kept that would say more. It was
    acknowledged without a result or long ago, cleared away by hand, or never there.
    """

    id: bytes
    value: bytes | None
    reason: str | None = None
    error: Error | None = None
    attempts: tuple[Attempt, ...] = ()
    kept: bool = True


class DeadMessage(Struct, frozen=True, gc=False):
    """A dead letter: the whole message, its counters, why and when it was given up on.

    `attempts` are how its last leases ended, oldest first; the last one is the one it died of.
    """

    message: Message
    reason: str
    error: Error
    fence: int
    failures: int
    crashes: int
    lost: int
    died_ms: int
    attempts: tuple[Attempt, ...] = ()


class JobView(Struct, frozen=True, gc=False):
    """A job as a person finds it: where it is at this moment, and what it has been through.

    `fence` is the one of its last claim, 0 before the first. `lost` leaves out a lease that ran out
    and was not claimed over yet. Both moments are on the wall clock: `since_ms` is since when it
    has been ready or dead, and None otherwise; `until_ms` is when a scheduled one falls due, or
    when the lease of one in flight runs out unless it is renewed. `reason` and `error` are those of
    a dead letter. `attempts` are how its last leases ended, oldest first.
    """

    message: Message
    state: State
    fence: int
    failures: int
    crashes: int
    lost: int
    since_ms: int | None = None
    until_ms: int | None = None
    reason: str | None = None
    error: Error | None = None
    attempts: tuple[Attempt, ...] = ()


class QueueCounts(Struct, frozen=True, gc=False):
    """How much lies in a queue, by state; None where a broker cannot tell.

    `paused`: nothing of it is claimed until it is resumed.
    """

    name: str
    ready: int | None
    scheduled: int | None
    in_flight: int | None
    dead: int | None
    oldest_ready_seconds: float | None
    paused: bool = False
