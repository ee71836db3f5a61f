"""What a broker can do, as a value: the same questions put to every broker.

Owns: `Capabilities`, and what each of its answers means.
Must never: name a broker, or decide what follows: what cannot be done is refused where it is asked
for.
Called by: `contract`, adapters, and whoever must know before it asks.
"""

from typing import Literal

from msgspec import Struct

MAX_DURATION_MS = 10 * 365 * 24 * 3_600_000

Durability = Literal["D0", "D1", "D2", "D3"]
"""D0 memory, D1 survives the death of any process, D2 a power loss, D3 the loss of a node."""


class Capabilities(Struct, frozen=True):
    """What a broker can do; what it cannot is refused where it is asked for, never degraded.

    `durability_note` says in words what the level rests on. `batch_limit` is the most messages of
    one `publish` or `claim`; `payload_limit` is in bytes of `Message.args`. `longest_run_ms` is the
    longest `timeout` of a message, None where any will do. `atomic_batches`: a `publish` stores all
    of its messages or none. `native_fence`: the broker itself refuses a stale settlement (otherwise
    the pump never sends one, and a lease that ran out is over at once: G5 does not hold).
    `unique_ids`: one id is one message (G2); where it is not, whoever publishes an id twice has two
    messages. `ordered`: a queue is served in publish order (G8). `takes_ahead`: messages may
    reach whoever waits on a bell before it claims them: then a ring is its own, not anybody's.
    `tells_next`: a claim knows when something falls due. `purges_scheduled`: a purge reaches what
    is scheduled. `leases_outlive`: a lease outlives the Broker object that took it and is good in
    the hands of another; where not, closing gives it back at once, as lost. `attend_seconds`: how
    often a holder must call the broker to keep its leases, by `idle` if by nothing else.
    `dedupe_window_seconds`: how long after a message is gone its id is still refused.
    `transactional_publish`: it stores messages in the transaction of a caller's own connection to
    its database, by `Broker.publish_on`.
    """

    durability: Durability
    durability_note: str
    batch_limit: int
    payload_limit: int
    longest_delay_ms: int = MAX_DURATION_MS
    longest_lease_ms: int | None = None
    longest_run_ms: int | None = None
    atomic_batches: bool = True
    atomic_retry: bool = True
    native_fence: bool = True
    unique_ids: bool = True
    ordered: bool = True
    takes_ahead: bool = False
    tells_next: bool = True
    purges_scheduled: bool = True
    leases_outlive: bool = True
    attend_seconds: float | None = None
    exact_counts: bool = True
    priorities: bool = True
    unique_keys: bool = True
    results: bool = True
    browsing: bool = True
    dedupe_window_seconds: int = 0
    shared_between_processes: bool = True
    transactional_publish: bool = False
