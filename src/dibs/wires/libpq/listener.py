"""The bell: a connection of its own that listens, and a descriptor that outlives it.

Owns: that connection, the channel's name, what this holder has asked to be rung for, and what was
handed over to it.
Must never: read what is handed over, or make a call fail: without a bell its holder looks once a
second.
Called by: adapters.

Whoever listens holds an advisory lock as long as the connection lives. So whoever rings can tell
the dead, and the ring is not lost on them.
"""

import math
from selectors import EVENT_READ, DefaultSelector

from dibs.clock import Clock, system_randomness
from dibs.errors import BrokerError
from dibs.wires.libpq.session import Session

RING_SECONDS = 0.1
"""How long a ring is waited for that was sent before the answer which told of it."""
SHARE = 1 / 3
"""What the bell may take of a call's time: the call needs the rest, and can do without a bell."""
RETRY_SECONDS = 1.0
"""How long after it could not listen it tries again at most: ten times what that took of a call."""
STANDS, TAKEN = 1, 2
"""What a claim says of the wish to be handed a message. If it is taken, a note is on its way."""


class Listener:
    """A bell that may be rung for queues, and for the ends of messages."""

    def __init__(self, session: Session | None, worker_id: bytes, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._retry_at = -math.inf
        # No two have one name: both would take what is handed over to it.
        self._channel = f"dibs_{(worker_id + system_randomness(4)).hex()}"
        # A selector has a descriptor that can be waited on; the connection in it may be exchanged.
        self._selector = DefaultSelector()
        self._asked = False
        self._watched: int | None = None
        self.armed: frozenset[str] = frozenset()  # the queues that it is to be rung for
        self.awaited: frozenset[bytes] = frozenset()
        self.is_idle = False
        """Whether a message may be handed over, for all that was heard."""
        self.handed: list[bytes] = []
        """What was handed over, and is not taken yet."""

    def fileno(self) -> int:
        """Return the descriptor; from now on it is wanted."""
        self._asked = self._session is not None
        return self._selector.fileno()

    def channel(self) -> str | None:
        """Return where to ring, after taking in what rang; None if nobody listens."""
        if self._session is None or not self._asked:
            return None
        rang = self._session.notified()
        if rang is None:
            return self._channel if self._listens(self._session) else None
        for note in rang:
            if note == b"work":
                self.armed = frozenset()
            elif note != b"end":
                self.is_idle = False
                self.handed.append(note)
        return self._channel

    def disarm(self, *, rung: bool) -> None:
        """Note that its holder waits no more; a ring that is on its way to it is taken in."""
        while rung and self.armed and self._selector.select(RING_SECONDS):
            self.channel()
        self.armed = frozenset()

    def wished(self, wish: int | None, *, is_busy: bool) -> bool:
        """Take in what has become of the wish to be handed a message, as a claim says it.

        If it is taken, so is the note in; but one that is busy with some of what it has goes on,
        and will hear of it. Return False if no note has come: its publisher is dead, or very slow.
        """
        if wish == TAKEN and is_busy:
            return True
        while wish == TAKEN and self.is_idle and self._selector.select(RING_SECONDS):
            self.channel()
        # It may be dead without a sign, and each wish would cost a message.
        doubted = self._session if wish == TAKEN and self.is_idle else None
        if doubted is not None and doubted.answers():
            self.channel()
        is_missed, self.is_idle = wish == TAKEN and self.is_idle, wish == STANDS
        return not is_missed

    def close(self) -> str | None:
        """Listen no more; return where it did."""
        channel = self._channel if self._watched is not None else None
        self._asked = False
        self._forget()
        self._selector.close()
        return channel

    def _listens(self, session: Session) -> bool:
        """Listen anew, unless it was tried just now; return whether it does."""
        if self._clock.monotonic() < self._retry_at:
            return False
        began = self._clock.monotonic()
        try:
            self._listen(session)
        except BrokerError:
            self._forget()
            now = self._clock.monotonic()
            self._retry_at = now + min(10 * (now - began), RETRY_SECONDS)
            return False
        return True

    def _listen(self, session: Session) -> None:
        self._forget()
        lock = f"SELECT pg_advisory_lock_shared(hashtextextended('{self._channel}', 0))"
        session.execute(f'LISTEN "{self._channel}"', lock)
        self._watched = session.socket()
        self._selector.register(self._watched, EVENT_READ)

    def _forget(self) -> None:
        self.armed, self.awaited, self.is_idle = frozenset(), frozenset(), False
        if self._session is not None:
            if self._watched is not None:
                self._selector.unregister(self._watched)
                self._watched = None
            self._session.close()
