"""Messages to test with, and short ways to move them about.

Owns: made-up messages, and the tables of what every broker must store and must refuse.
Must never: hold an expectation about one broker.
Called by: the conformance suite, the state machine, and anyone's tests.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.contract import (
    LATEST_DUE_MS,
    MAX_BUDGET,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_NAME_BYTES,
    MAX_VERSION,
    MIN_VISIBILITY_TIMEOUT_MS,
    Broker,
    Settled,
    Stored,
)
from dibs.message import (
    Ack,
    DeadLetter,
    Error,
    Lease,
    Message,
    Nack,
    Outcome,
    Release,
    Settlement,
)

VISIBILITY_MS = 30_000
ERROR = Error("ValueError", "no such photo: 写真", 'Traceback ...\n  File "photos.py"')
OUTCOMES: dict[str, Outcome] = {
    "ack": Ack(),
    "nack": Nack(0, ERROR),
    "release": Release(),
    "dead letter": DeadLetter("max_attempts", ERROR),
}

_numbers = itertools.count(1)


def new_id() -> bytes:
    """Return an id that no other call returned, in UUIDv7 layout and in order of time."""
    number = next(_numbers)
    return (0x0190_0000_0000).to_bytes(6) + b"\x70\x00\x80\x00" + number.to_bytes(6)


def message(queue: str = "photos", **fields: Any) -> Message:
    """Return a new message, lawful unless `fields` say otherwise."""
    known: dict[str, Any] = {"id": new_id(), "task": "resize", "args": b'{"path":"a.jpg"}'}
    return Message(**{**known, "queue": queue, **fields})


def messages(count: int, queue: str = "photos", **fields: Any) -> list[Message]:
    """Return `count` new messages."""
    return [message(queue, **fields) for _ in range(count)]


def publish(broker: Broker, *new: Message) -> list[Message]:
    """Publish what must be stored, within the broker's batch limit."""
    for batch in batches(new, broker.capabilities.batch_limit):
        assert broker.publish(batch) == [Stored()] * len(batch)
    return list(new)


def claim(broker: Broker, *queues: str, limit: int = 1) -> list[Lease]:
    """Claim once."""
    return broker.claim(queues or ["photos"], limit).leases


def claim_one(broker: Broker, *queues: str) -> Lease:
    """Claim what must be there."""
    (lease,) = claim(broker, *queues)
    return lease


def claim_all(broker: Broker, *queues: str) -> list[Lease]:
    """Claim until nothing more is granted."""
    limit = min(100, broker.capabilities.batch_limit)
    leases: list[Lease] = []
    while granted := claim(broker, *queues, limit=limit):
        leases += granted
    return leases


def settle(broker: Broker, lease: Lease, outcome: Outcome) -> Settled:
    """Settle one lease."""
    (answer,) = broker.settle([Settlement(lease, outcome)])
    return answer


def ids(held: Iterable[Message | Lease]) -> list[bytes]:
    """Return the ids, in order."""
    return [one.id if isinstance(one, Message) else one.message.id for one in held]


def counters(lease: Lease) -> tuple[int, int, int]:
    """Return failures, crashes and lost."""
    return lease.failures, lease.crashes, lease.lost


def batches(new: Sequence[Message], size: int) -> list[list[Message]]:
    """Cut `new` into lists of at most `size`."""
    return [list(new[at : at + size]) for at in range(0, len(new), size)]


def refused_fields(capabilities: Capabilities) -> dict[str, tuple[dict[str, Any], str]]:
    """Return what every broker must refuse: a name for it, the fields, a word of the reason."""
    over = "x" * (capabilities.payload_limit + 1)
    longest_lease_ms = capabilities.longest_lease_ms or MAX_DURATION_MS
    longest_run_ms = capabilities.longest_run_ms or MAX_DURATION_MS
    table: dict[str, tuple[dict[str, Any], str]] = {
        "arguments over the limit": ({"args": over.encode()}, "arguments"),
        "65 headers": ({"headers": {str(n): "" for n in range(MAX_HEADERS + 1)}}, "headers"),
        "headers too long": ({"headers": {"a": "x" * MAX_HEADER_BYTES}}, "headers"),
        "headers too long in UTF-8": ({"headers": {"a": "é" * 4_096}}, "headers"),
        "surrogate in a header": ({"headers": {"a": "\ud800"}}, "headers"),
        "surrogate in a header's name": ({"headers": {"\udfff": "a"}}, "headers"),
        "priority -1": ({"priority": -1}, "priority"),
        "priority 10": ({"priority": 10}, "priority"),
        "due before 1970": ({"due_ms": -1}, "due"),
        "due in 10000": ({"due_ms": LATEST_DUE_MS + 1}, "due"),
        "due beyond 64 bits": ({"due_ms": 2**70}, "due"),
        "timeout 0": ({"timeout_ms": 0}, "timeout"),
        "timeout over ten years": ({"timeout_ms": MAX_DURATION_MS + 1}, "timeout"),
        "timeout over the longest": ({"timeout_ms": longest_run_ms + 1}, "timeout"),
    }
    for size in (0, 15, 17):
        table[f"id of {size}"] = {"id": b"i" * size}, "id"
    for queue in ("", "q" * 61, "a b", "a/b", "queue\n", "né", "a\0", "\ud800"):
        table[f"queue {queue[:9]!r}"] = {"queue": queue}, "queue"
    for name in ("", "t" * (MAX_NAME_BYTES + 1), "é" * 257, "\ud800"):
        table[f"task {name[:9]!r}"] = {"task": name}, "task"
        table[f"key {name[:9]!r}"] = {"unique_key": name}, "key"
    for ms in (-1, 0, MIN_VISIBILITY_TIMEOUT_MS - 1):
        table[f"visibility timeout {ms}"] = {"visibility_timeout_ms": ms}, "visibility"
    over_the_longest = {"visibility_timeout_ms": longest_lease_ms + 1}
    table["visibility timeout over the longest"] = over_the_longest, "visibility"
    for budget in ("max_attempts", "max_crashes", "max_lost"):
        for count in (-1, 0, MAX_BUDGET + 1):
            table[f"{budget} {count}"] = {budget: count}, "budget"
    for version in (-1, MAX_VERSION + 1, 2**64):
        table[f"envelope version {version}"] = {"version": version}, "version"
    return table


def lawful_fields(capabilities: Capabilities) -> dict[str, dict[str, Any]]:
    """Return what lies just within the limits, and what looks odd but is nobody's business."""
    most = {str(n): "" for n in range(MAX_HEADERS)}
    table: dict[str, dict[str, Any]] = {
        "no arguments": {"args": b""},
        "arguments at the limit": {"args": b"x" * capabilities.payload_limit},
        "every byte": {"args": bytes(range(256)) * 16},
        "arguments that are no UTF-8": {"args": b'{"a":"\xff\xfe\x80"}'},
        "arguments that are no JSON": {"args": b"\x80\x04K\x01."},
        "64 headers": {"headers": most},
        "headers at the limit": {"headers": {"a": "x" * (MAX_HEADER_BYTES - 1)}},
        "headers of any text": {"headers": {"": "", "ключ": "值\0\n'\"\\", "𝄞": "\u202e"}},
        "task of any text": {"task": "imágenes/写真\0'\"\\ 𝄞"},
        "task at the limit": {"task": "é" * (MAX_NAME_BYTES // 2)},
        "queue of 1": {"queue": "-"},
        "queue of 60": {"queue": "Az09_-" * 10},
        "due in 1970": {"due_ms": 1},
        "shortest lease": {"visibility_timeout_ms": MIN_VISIBILITY_TIMEOUT_MS},
        "longest lease": {
            "visibility_timeout_ms": capabilities.longest_lease_ms or MAX_DURATION_MS
        },
        "shortest timeout": {"timeout_ms": 1},
        "longest timeout": {"timeout_ms": capabilities.longest_run_ms or MAX_DURATION_MS},
        "budgets of 1": {"max_attempts": 1, "max_crashes": 1, "max_lost": 1},
        "largest budgets": {f"max_{n}": MAX_BUDGET for n in ("attempts", "crashes", "lost")},
        "id of zeros": {"id": bytes(16)},
        "id of ones": {"id": b"\xff" * 16},
    }
    for version in (0, 2, MAX_VERSION):
        table[f"envelope version {version}"] = {"version": version, "args": b"\0\xff"}
    for priority in (1, 9):
        table[f"priority {priority}"] = {"priority": priority}
    for key in ("k", "é" * (MAX_NAME_BYTES // 2), "a\0b", " ", "𝄞"):
        table[f"key {key[:9]!r}"] = {"unique_key": key}
    return table
