"""What every broker refuses: the checks on a message that are the same for all of them.

Owns: `refusal`, its reasons as people read them, and how a batch is checked at the price of one.
Must never: know an adapter, or refuse what only one of them cannot store.
Called by: adapters, first thing in `publish`, and where they are given the name of a queue.
"""

from collections.abc import Callable, Iterable, Sequence

from dibs.alike import Alike, runs_of
from dibs.brokers.capabilities import MAX_DURATION_MS, Capabilities
from dibs.brokers.contract import (
    LATEST_DUE_MS,
    MAX_BUDGET,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_NAME_BYTES,
    MAX_VERSION,
    MIN_VISIBILITY_TIMEOUT_MS,
    QUEUE_NAME,
    Published,
    Refused,
)
from dibs.errors import OptionError
from dibs.idempotency import HEADER
from dibs.message import Message


def refusal(message: Message, capabilities: Capabilities) -> str | None:
    """Say why a broker of these capabilities must refuse `message`, or None.

    One chain of comparisons for the good case, because `publish` asks it for every message.
    """
    if (
        len(message.id) == 16
        and len(message.args) <= capabilities.payload_limit
        and message.priority == 0
        and 0 <= message.due_ms <= LATEST_DUE_MS
        and MIN_VISIBILITY_TIMEOUT_MS
        <= message.visibility_timeout_ms
        <= (capabilities.longest_lease_ms or MAX_DURATION_MS)
        and 0 < message.timeout_ms <= (capabilities.longest_run_ms or MAX_DURATION_MS)
        and 0 < message.max_attempts <= MAX_BUDGET
        and 0 < message.max_crashes <= MAX_BUDGET
        and 0 < message.max_lost <= MAX_BUDGET
        and 0 <= message.version <= MAX_VERSION
        and message.unique_key is None
        and not message.headers
        and message.task.isascii()
        and 0 < len(message.task) <= MAX_NAME_BYTES
        and QUEUE_NAME.fullmatch(message.queue)
    ):
        return None
    rules = (*_rules_of_size(message, capabilities), *_rules_of_delivery(message, capabilities))
    return next((why for kept, why in rules if not kept), None)


def refusals(runs: Sequence[Alike], capabilities: Capabilities) -> list[str | None]:
    """Return the `refusal` of each message in runs, in order; what is alike is checked once."""
    limit = capabilities.payload_limit
    found: list[str | None] = []
    for run in runs:
        lawful = max(map(len, run.args)) <= limit and {*map(len, run.ids)} == {16}
        if lawful and refusal(run.pattern, capabilities) is None:
            found += [None] * len(run)
        else:
            found += [refusal(message, capabilities) for message in run]
    return found


def published(
    messages: Sequence[Message],
    capabilities: Capabilities,
    store: Callable[[list[Alike]], list[Published]],
) -> list[Published]:
    """Have those of a batch stored that need not be refused; say what became of each, in order.

    `store` is given runs that are not empty, and answers for each message of them.

    Raises:
        OptionError: they are more than `batch_limit`; and whatever `store` raises.
    """
    how_many(len(messages), capabilities)
    runs = runs_of(messages)
    refused = refusals(runs, capabilities)
    if refused.count(None) == len(messages):
        return store(runs) if runs else []
    fit = [m for m, why in zip(messages, refused, strict=True) if why is None]
    stored = iter(store(runs_of(fit)) if fit else ())
    return [next(stored) if why is None else Refused(why) for why in refused]


def how_many(count: int, capabilities: Capabilities) -> None:
    """Check how many messages one call names.

    Raises:
        OptionError: they are more than `batch_limit`.
    """
    limit = capabilities.batch_limit
    if count > limit:
        raise OptionError(f"{count:,} messages in one call: {limit:,} at most at a time")


def queue_names(queues: Iterable[str]) -> None:
    """Check what is to be the name of a queue.

    Raises:
        OptionError: one of them is not `[A-Za-z0-9_-]{1,60}`.
    """
    for queue in queues:
        if not QUEUE_NAME.fullmatch(queue):
            raise OptionError(f"queue name {queue!r} is not 1 to 60 of A-Z a-z 0-9 _ -")


def _rules_of_size(message: Message, capabilities: Capabilities) -> list[tuple[bool, str]]:
    size, limit = len(message.args), capabilities.payload_limit
    header_bytes = sum(_utf8_length(k) + _utf8_length(v) for k, v in message.headers.items())
    key = message.unique_key
    return [
        (len(message.id) == 16, "an id has 16 bytes"),
        (
            size <= limit,
            (
                f"the arguments take {size:,} bytes, and this broker's limit is {limit:,};"
                " store the data elsewhere and pass its address"
            ),
        ),
        (
            len(message.headers) <= MAX_HEADERS and header_bytes <= MAX_HEADER_BYTES,
            f"the headers are more than {MAX_HEADERS}, or over {MAX_HEADER_BYTES:,} bytes of UTF-8",
        ),
        (
            0 < _utf8_length(message.task) <= MAX_NAME_BYTES,
            f"the task name does not have 1 to {MAX_NAME_BYTES} bytes of UTF-8",
        ),
        (
            key is None or 0 < _utf8_length(key) <= MAX_NAME_BYTES,
            f"the unique key does not have 1 to {MAX_NAME_BYTES} bytes of UTF-8",
        ),
        (
            QUEUE_NAME.fullmatch(message.queue) is not None,
            f"queue name {message.queue!r} is not 1 to 60 of A-Z a-z 0-9 _ -",
        ),
    ]


def _rules_of_delivery(message: Message, capabilities: Capabilities) -> list[tuple[bool, str]]:
    lease, run = message.visibility_timeout_ms, message.timeout_ms
    longest_lease = capabilities.longest_lease_ms or MAX_DURATION_MS
    longest_run = capabilities.longest_run_ms or MAX_DURATION_MS
    budgets = (message.max_attempts, message.max_crashes, message.max_lost)
    return [
        (0 <= message.priority <= 9, f"priority {message.priority} is not within 0 to 9"),
        (
            message.priority == 0 or capabilities.priorities,
            "this broker cannot order by priority",
        ),
        (0 <= message.due_ms <= LATEST_DUE_MS, "the due time is not within 1970 and 9999"),
        (
            MIN_VISIBILITY_TIMEOUT_MS <= lease <= longest_lease,
            (
                f"a visibility timeout of {lease:,} ms is not within"
                f" {MIN_VISIBILITY_TIMEOUT_MS:,} and {longest_lease:,} ms"
            ),
        ),
        (
            0 < run <= longest_run,
            f"a timeout of {run:,} ms is not within 1 and {longest_run:,} ms",
        ),
        (
            all(0 < budget <= MAX_BUDGET for budget in budgets),
            f"a budget of {budgets} is not within 1 and {MAX_BUDGET:,}",
        ),
        (
            0 <= message.version <= MAX_VERSION,
            f"version {message.version} of the envelope is not within 0 and {MAX_VERSION:,}",
        ),
        (
            HEADER not in message.headers or capabilities.results,
            "this broker cannot keep results, and so not the record of an idempotency key",
        ),
        (
            message.unique_key is None or capabilities.unique_keys,
            "this broker cannot keep unique keys",
        ),
    ]


def _utf8_length(text: str) -> int:
    """Return how many bytes `text` takes; a lone surrogate has no UTF-8, so it takes too many."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_HEADER_BYTES + 1
