"""What can be wrong with a network, as values; `proxy` makes it so.

Owns: what a test asks for, and what holds for all connections of a proxy at one moment.
Must never: touch a socket.
Called by: tests, through `dibs.testing.proxy`; and the proxy.
"""

import random
from collections.abc import Callable
from typing import Literal

from msgspec import Struct, structs


class LostReply(Struct, frozen=True):
    """Requests that go through, and whose replies do not: the lost ack, the lost confirm.

    `to` is asked of what a client has sent since its server last said something, until it says
    that the request is there; of more than 64 KiB it is shown the beginning. Of the requests that
    it recognises, over all connections, every `every`-th loses its reply: the server gets it, the
    client gets nothing more, and as soon as `reply` recognises the answer in what the server has
    sent since, or the server hangs up, both are cut off, the client by a reset. A server that
    confirms one thing while it sends another needs a `reply` of its own; by default, the first
    bytes are the answer.
    """

    to: Callable[[bytes], bool]
    every: int = 1
    reply: Callable[[bytes], bool] = bool


class Faults(Struct, frozen=True):
    """All that is wrong at one time, for old connections and new ones; by default nothing.

    latency_seconds: what is sent arrives so much later, in order, in either direction.
    jitter_seconds: and up to so much sooner or later than that, at random.
    segment_bytes: what is sent goes in pieces of this size, one after the other, and whoever reads
        slowly may find some of them joined; 0: as it came.
    stalled: nothing is read or written, and nobody is told. What was sent arrives when it is over.
    connects: what becomes of a new connection. "accepted": by nobody but the kernel, so that it is
        never answered, not even after the fault is over. "ignored": not even that, so that whoever
        connects waits; it may get through when the fault is over.
    reset_within_bytes: each connection is reset, in the middle of whatever it is, after a random
        number of bytes in either direction, this one at most; 0: never.
    lost_reply: which replies do not arrive.
    """

    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    segment_bytes: int = 0
    stalled: bool = False
    connects: Literal["answered", "accepted", "ignored"] = "answered"
    reset_within_bytes: int = 0
    lost_reply: LostReply | None = None


class Traffic(Struct):
    """What a proxy has seen so far.

    `connections` reached the server; `up_bytes` went to it and `down_bytes` to clients; `resets`
    are connections cut by `Faults.reset_within_bytes` or by `Proxy.reset`, `lost_replies` those cut
    by `Faults.lost_reply`, and `requests` what that recognised since it was asked for.
    """

    connections: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    resets: int = 0
    requests: int = 0
    lost_replies: int = 0


class Course:
    """What holds for all connections of a proxy now: its faults, its chance and its counts."""

    def __init__(self, seed: int) -> None:
        self.faults = Faults()
        self.traffic = Traffic()
        self._chance = random.Random(seed)

    def change(self, faults: Faults) -> None:
        """Let other faults be in force."""
        self.faults = faults
        self.traffic.requests = 0

    def seen(self) -> Traffic:
        """Return a copy of the counts."""
        return structs.replace(self.traffic)

    def delay_seconds(self) -> float:
        """Return how long the next bytes take."""
        faults = self.faults
        jitter = self._chance.uniform(-1.0, 1.0) * faults.jitter_seconds
        return max(0.0, faults.latency_seconds + jitter)

    def bytes_to_live(self) -> int | None:
        """Return after how many bytes a connection is reset; None: never."""
        most = self.faults.reset_within_bytes
        return self._chance.randint(1, most) if most else None

    def loses_reply(self) -> bool:
        """Count a request, and say whether it is one that loses its reply."""
        lost = self.faults.lost_reply
        self.traffic.requests += 1
        return lost is not None and self.traffic.requests % lost.every == 0
