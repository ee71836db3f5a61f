"""What settlements come to, for stores that end many leases in one step.

Must never: read a clock, or know a store. Called by: adapters.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import astuple

from dibs.acked import Acked
from dibs.brokers.capabilities import MAX_DURATION_MS
from dibs.brokers.contract import ATTEMPTS_KEPT, UNKNOWN, Unknown
from dibs.errors import BrokerError
from dibs.message import Ack, DeadLetter, Lease, Nack, Release, Settlement

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Acks(Struct):
    """The acknowledgements of a batch.

    `receipts` are by fence: leases of one fence are ended by one comparison. `results` are the ids
    and values of what is to be kept, by the milliseconds for which it is, and `ends` are the ids of
    what is to be kept without a value; `kept` counts both. `count` is of all acknowledgements.
    """

    receipts: dict[int, list[int | str]]
    results: dict[int, tuple[list[bytes], list[bytes]]]
    ends: dict[int, list[bytes]]
    kept: int
    count: int


def kept_under(id: bytes, ack: Ack) -> list[tuple[bytes, int]]:
    """Return under which ids the result of a message is to be kept, and for how long each, in ms.

    Its own, and that of its record, if it has one: as far as they are for any time at all.
    """
    kept = [(id, ack.keep_ms)] if ack.keep_ms > 0 else []
    record = ack.record
    if record is not None and record.keep_ms > 0:
        kept.append((record.id, record.keep_ms))
    return kept


def acks_of(settlements: Iterable[Settlement]) -> Acks:
    """Sort out the acknowledgements."""
    if type(settlements) is Acked:
        return _plain(settlements.leases)
    receipts: dict[int, list[int | str]] = {}
    results: dict[int, tuple[list[bytes], list[bytes]]] = {}
    ends: dict[int, list[bytes]] = {}
    for settlement in settlements:
        lease, outcome = settlement.lease, settlement.outcome
        if type(outcome) is Ack:
            receipts.setdefault(lease.fence, []).append(lease.receipt)
            if outcome.keep_ms > 0 or outcome.record is not None:
                own = lease.message.id
                # Results come by the hundred thousand, and few have a record: spared a call.
                kept = kept_under(own, outcome) if outcome.record else [(own, outcome.keep_ms)]
                for id, asked_ms in kept:
                    keep_ms = min(asked_ms, MAX_DURATION_MS)
                    if outcome.result is None:
                        ends.setdefault(keep_ms, []).append(id)
                    else:
                        ids, values = results.setdefault(keep_ms, ([], []))
                        ids.append(id)
                        values.append(outcome.result)
    count = sum(map(len, receipts.values()))
    stored = sum(len(ids) for ids, _ in results.values()) + sum(map(len, ends.values()))
    return Acks(receipts, results, ends, stored, count)


def _plain(leases: Sequence[Lease]) -> Acks:
    receipts: dict[int, list[int | str]] = {}
    fences = {lease.fence for lease in leases}
    if len(fences) == 1:  # mostly it is the first
        receipts[fences.pop()] = [lease.receipt for lease in leases]
    else:
        for lease in leases:
            receipts.setdefault(lease.fence, []).append(lease.receipt)
    return Acks(receipts, {}, {}, 0, len(leases))


def queues_of_others(settlements: Sequence[Settlement]) -> set[str]:
    """Return the queues of all but the acknowledgements: their messages may wait again."""
    if type(settlements) is Acked:
        return set()
    return {s.lease.message.queue for s in settlements if type(s.outcome) is not Ack}


def kept_columns(acks: Sequence[Ack]) -> tuple[list[Any] | None, ...]:
    """Return what is kept of many, one column each: how long, which value, record, how long there.

    A column is None where it would be empty.
    """
    recorded = any(ack.record for ack in acks)
    if not recorded and not any(ack.keep_ms > 0 for ack in acks):
        return None, None, None, None
    keeps = [min(ack.keep_ms, MAX_DURATION_MS) for ack in acks]
    values = [ack.result for ack in acks]
    if not recorded:
        return keeps, values, None, None
    records = [ack.record.id if ack.record else None for ack in acks]
    spans = [min(ack.record.keep_ms, MAX_DURATION_MS) if ack.record else 0 for ack in acks]
    return keeps, values, records, spans


def other_end(lease: Lease, outcome: Nack | DeadLetter | Release, now_ms: int) -> dict[str, Any]:
    """Return what is to be stored of any other end of a lease, by name.

    `since` is when the message waits again. `error` is a JSON array of an `Error`'s fields; what is
    given back has none. Only a dead letter has a `reason`. `kept` is how many attempts are.
    """
    delay_ms = 0 if isinstance(outcome, DeadLetter) else outcome.delay_ms
    failed = None if isinstance(outcome, Release) else outcome
    return {
        "seq": lease.receipt,
        "fence": lease.fence,
        "now": now_ms,
        "since": now_ms + max(0, min(delay_ms, MAX_DURATION_MS)),
        "charge": failed.charge if failed else "nothing",
        "error": json.dumps(astuple(failed.error)) if failed else None,
        "reason": outcome.reason if isinstance(outcome, DeadLetter) else None,
        "kept": ATTEMPTS_KEPT,
    }


def in_parts(
    items: Sequence[Item],
    how_many: Callable[[], int],
    step: Callable[[Sequence[Item]], Iterable[Answer]],
    unsure: type[BrokerError] | tuple[()] = (),
) -> list[Answer | Unknown]:
    """Settle or extend so many at a time; when a part fails, it and what follows are unknown.

    Raises:
        BrokerError: the first part failed and nothing took effect: it was none that is `unsure`.
    """
    answers: list[Answer | Unknown] = []
    while len(answers) < len(items):
        try:
            answers += step(items[len(answers) : len(answers) + how_many()])
        except BrokerError as exc:
            if not answers and not isinstance(exc, unsure):
                raise
            answers += [UNKNOWN] * (len(items) - len(answers))
    return answers
