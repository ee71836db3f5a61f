"""Ids of messages: 16 bytes in UUIDv7 layout.

Owns: the layout, and that no two ids of a process are the same, nor of two processes but by a
chance of one in 2^60.
Must never: read a clock or draw randomness by itself.
Called by: the producer, for each message. Random ids would insert into a table at half the speed.
"""

from itertools import count, islice
from struct import Struct

from dibs.clock import Clock, Randomness
from dibs.errors import JobIdError

_PACK = Struct(">QQ").pack


class Ids:
    """A source of ids that grow with time, and within one millisecond; any thread may use it.

    Randomness is drawn once: 73 bits that name this source.
    """

    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._wall_ms = clock.wall_ms
        self._randomness = randomness
        self._latest_ms = 0
        self.renew()

    def renew(self) -> None:
        """Become another source: in a forked child, whose parent goes on with this one."""
        drawn = int.from_bytes(self._randomness(10), "big")
        self._version = 0x7000 | drawn & 0xFFF
        self._high = self._latest_ms << 16 | self._version
        # The variant's bits are 10, and below them there is room to count for as long as it runs.
        # `next` of a count is one step for all threads; a number of our own would need a lock.
        self._low = count(1 << 63 | (drawn >> 12) & (1 << 61) - 1)

    def new(self) -> bytes:
        """Return the next id."""
        self._look()
        return _PACK(self._high, next(self._low))

    def take(self, how_many: int) -> list[bytes]:
        """Return the next ids, of one look at the clock: a third of the cost of `new`."""
        self._look()
        high = self._high
        return [_PACK(high, low) for low in islice(self._low, how_many)]

    def _look(self) -> None:
        now = self._wall_ms()
        if now > self._latest_ms:
            self._latest_ms = now
            self._high = now << 16 | self._version


def from_text(text: str) -> bytes:
    """Return the id that `as_text` made `text` of.

    Raises:
        JobIdError: it is no such text.
    """
    try:
        message_id = bytes.fromhex(text.replace("-", ""))
    except (AttributeError, TypeError, ValueError):
        message_id = b""
    if len(message_id) != 16:
        raise JobIdError(f"{text!r} is no job's id, which is a UUID in text, as `job.id` says it")
    return message_id


def as_text(message_id: bytes) -> str:
    """Return an id in the form of a UUID, which is what people see."""
    digits = message_id.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
