"""A task together with the options that its jobs are delivered with.

Owns: the way from a call's arguments to a stored job.
Must never: change; other options make another `Delivery`.
Called by: user code, as `task.enqueue(...)` or `task.options(...).enqueue(...)`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, ParamSpec

from msgspec import Struct

from dibs.alike import Alike
from dibs.brokers.contract import CallersConnection
from dibs.errors import ArgumentError, LedgerError, OptionError
from dibs.idempotency import HEADER, unique_key
from dibs.job import Job, Origin, R_co
from dibs.message import Message
from dibs.options import Options, Seconds, revised
from dibs.producer.door import BATCH_BYTES
from dibs.producer.producer import Producer

P = ParamSpec("P")

BATCH_MESSAGES = 4_000
"""How many jobs of `enqueue_many` share a transaction, of some 6 ms: half as many are a tenth
slower, and for more others wait too long."""

ALONE_BYTES = 128 << 10
"""From which size a payload is a batch of its own: a broker may refuse it, and then all that came
before it is stored, and nothing that comes after."""


class BoundCall(Struct, frozen=True, gc=False):
    """A call with its arguments, not enqueued yet: what `App.enqueue_many` takes.

    Its arguments are encoded and checked already. Each time it is enqueued is a job of its own.
    """

    delivery: "Delivery[..., object]"
    payload: bytes

    def __repr__(self) -> str:
        return f"<BoundCall of {self.delivery!r}, {len(self.payload)} bytes of arguments>"


class Delivery(Generic[P, R_co]):
    """A task with delivery options; `enqueue`, `aenqueue` and `bind` take the task's arguments."""

    def __init__(
        self, origin: Origin, options: Options, connection: CallersConnection | None = None
    ) -> None:
        self._origin = origin
        self._connection = connection
        self._name = name = origin.info.name
        self._codec = origin.codec
        self._key_form = origin.key_form
        self._options = options
        self._producer = origin.producer
        self._new_id = origin.producer.ids.new
        # The fields of a message between its id and its arguments, and those after them.
        self._before: tuple[str, str] = (options.queue, name)
        self._after: tuple[Any, ...] = (
            options.due_ms,
            options.priority,
            options.visibility_timeout_ms,
            options.timeout_ms,
            options.max_attempts,
            options.max_crashes,
            options.max_lost,
            options.unique_key,
        )

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]:
        """Store a call of the task with these arguments; return when it is durable.

        Calls from several threads share their trips to the disk. From an event loop, use
        `aenqueue`: this one waits.

        Raises:
            ArgumentError: the arguments do not fit the task's signature, or have no JSON form.
            OptionError: the broker cannot keep an option.
            PayloadTooLarge: the arguments exceed the broker's limit.
            BrokerError: it did not store the job, or, for `PublishUnknown`, cannot tell.
            EnqueueWhileImporting: a worker is importing the module of the calling line.
        """
        message = self._message(self._codec.encode(args, kwargs))
        if self._connection is not None:
            return self._job(message, self._producer.publish_on(self._connection, message))
        return self._job(message, self._producer.publish(message))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]:
        """Store a call, as `enqueue` does, without blocking the event loop.

        Cancelling the wait does not undo it: the job may be stored.
        """
        self._refuse_connection("aenqueue")
        message = self._message(self._codec.encode(args, kwargs))
        return self._job(message, await self._producer.apublish(message))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> BoundCall:
        """Return a call with its arguments, checked and encoded, for `App.enqueue_many`.

        Raises:
            ArgumentError: the arguments do not fit the task's signature, or have no JSON form.
        """
        self._refuse_connection("bind")
        payload = self._codec.encode(args, kwargs)
        if self._key_form is not None:
            self._key_of(payload)  # what is wrong with it is said here
        return BoundCall(self, payload)

    def options(
        self,
        *,
        delay: Seconds | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        unique_key: str | None = None,
        max_attempts: int | None = None,
        timeout: Seconds | None = None,
        visibility_timeout: Seconds | None = None,
        connection: object = None,
    ) -> "Delivery[P, R_co]":
        """Return the same task with other delivery options; what is not given stays.

        Args:
            delay: seconds, or a `timedelta`, from the enqueueing until it may start; 0 to 10 years.
            run_at: the moment before which it does not start, a `datetime` with a time zone.
            priority: 0 to 9; within a queue the higher goes first.
            queue: 1 to 60 of A-Z a-z 0-9 _ -.
            unique_key: while a job with this key is ready, scheduled or in flight, another is not
                stored: `enqueue` returns the first, its `duplicate` set.
            max_attempts: runs that may fail, the first included, before it is a dead letter.
            timeout: seconds that one run may take.
            visibility_timeout: seconds, at least 1, for which a worker holds it between heartbeats;
                it returns to the queue so long after its worker died.
            connection: your own connection to the broker's database (PostgreSQL): `enqueue` stores
                the job in its transaction, so there is one if and only if that commits.

        Raises:
            OptionError: one of them is out of its range; the text names both. Or `unique_key` is
                given for a task whose `idempotency_key` is its unique key.
        """
        if unique_key is not None and self._key_form is not None:
            raise OptionError(
                f"`{self._name}` has an `idempotency_key`, which is the unique key of its jobs too:"
                " leave `unique_key` out"
            )
        given = {
            "delay": delay,
            "run_at": run_at,
            "priority": priority,
            "queue": queue,
            "unique_key": unique_key,
            "max_attempts": max_attempts,
            "timeout": timeout,
            "visibility_timeout": visibility_timeout,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        options = revised(self._options, chosen)
        own = self._connection if connection is None else callers(connection)
        return Delivery(self._origin, options, own)

    def __repr__(self) -> str:
        changed = (
            f"{field}={getattr(self._options, field)!r}"
            for field in self._options.__struct_fields__
            if getattr(self._options, field) != getattr(Options(), field)
        )
        return f"<{type(self).__name__} {self._name} {' '.join(changed)}".rstrip() + ">"

    def messages(
        self, ids: Sequence[bytes], payloads: Sequence[bytes], now_ms: int
    ) -> Sequence[Message]:
        """Return a message for each of `ids` and `payloads`, enqueued at `now_ms`."""
        before, after = self.around(now_ms)
        if self._key_form is None:
            return Alike(Message(ids[0], *before, payloads[0], *after), ids, payloads)
        return [
            Message(id, *before, payload, *self._keyed(after, payload))
            for id, payload in zip(ids, payloads, strict=True)
        ]

    def is_of(self, producer: Producer) -> bool:
        """Whether its jobs are for the broker of `producer`."""
        return self._producer is producer

    def around(self, now_ms: int) -> tuple[tuple[str, str], tuple[Any, ...]]:
        """Return the fields of a message before and after its arguments, enqueued at `now_ms`."""
        delay_ms = self._options.delay_ms
        if delay_ms:
            return self._before, (now_ms + delay_ms, *self._after[1:])
        return self._before, self._after

    def _refuse_connection(self, verb: str) -> None:
        if self._connection is not None:
            raise OptionError(
                f"`{verb}` does not use your connection: with `connection=`, call `enqueue`, in the"
                " thread that the connection is used in"
            )

    def _message(self, payload: bytes) -> Message:
        before, after = self._before, self._after
        if self._options.delay_ms:
            before, after = self.around(self._producer.clock.wall_ms())
        if self._key_form is not None:
            after = self._keyed(after, payload)
        return Message(self._new_id(), *before, payload, *after)

    def _key_of(self, payload: bytes) -> str:
        assert self._key_form is not None
        return self._key_form.key(self._codec.values(payload, self._key_form.parameters))

    def _keyed(self, after: tuple[Any, ...], payload: bytes) -> tuple[Any, ...]:
        """Return the fields after the arguments with the idempotency key of a call."""
        key = self._key_of(payload)
        return *after[:-1], unique_key(self._name, key), {HEADER: key}

    def _job(self, message: Message, key: bytes) -> Job[R_co]:
        return Job(key, self._origin, message.queue, key != message.id)


def callers(connection: object) -> CallersConnection:
    """Return a caller's own connection as a broker can use it.

    Raises:
        OptionError: it is of no library that is known.
    """
    from dibs.ledger.kinds import connected  # most programs never bring one

    try:
        return connected(connection)
    except LedgerError as error:
        kind = type(connection)
        raise OptionError(
            f"`connection` is a {kind.__module__}.{kind.__qualname__}: give a connection of psycopg"
            " or psycopg2, a SQLAlchemy Session or Connection (no engine, and none of the async"
            " ones), or `django.db.connection`"
        ) from error


def batches(calls: Iterable[BoundCall], producer: Producer) -> Iterator[Sequence[Message]]:
    """Make the messages of `calls`, in batches that are bounded in number and bytes.

    When reading `calls` raises, what was read before is still yielded.
    """
    batch: list[BoundCall] = []
    size = 0
    try:
        for call in calls:
            if type(call) is not BoundCall:
                raise ArgumentError(
                    "enqueue_many takes calls made by `task.bind(...)`, not"
                    f" `{type(call).__name__}`: was the task called instead?"
                )
            alone = len(call.payload) >= ALONE_BYTES
            if alone and batch:
                yield _messages(batch, producer)
                batch, size = [], 0
            batch.append(call)
            size += len(call.payload)
            if alone or len(batch) >= BATCH_MESSAGES or size >= BATCH_BYTES:
                yield _messages(batch, producer)
                batch, size = [], 0
        if batch:
            yield _messages(batch, producer)
    except Exception:
        if batch:
            yield _messages(batch, producer)
        raise


def _messages(calls: list[BoundCall], producer: Producer) -> Sequence[Message]:
    """Make the messages of `calls`; refuse a call of another app, and remove it and what follows.

    It is asked of each run of one delivery, at no cost for a job.
    """
    now_ms = producer.clock.wall_ms()
    ids = producer.ids.take(len(calls))
    runs: list[Sequence[Message]] = []
    start = 0
    delivery: Delivery[..., object]
    for delivery, group in groupby(calls, attrgetter("delivery")):
        if not delivery.is_of(producer):
            del calls[start:]
            raise ArgumentError(f"{delivery} is of another app: enqueue its calls with that one")
        args = [call.payload for call in group]
        runs.append(delivery.messages(ids[start : start + len(args)], args, now_ms))
        start += len(args)
    return runs[0] if len(runs) == 1 else [message for run in runs for message in run]
