"""The bell: a connection of its own that listens, and a descriptor that outlives it.

Owns: that connection, the channel's name, and what this holder has asked to be rung for.
Must never: make a call fail: without a bell its holder looks once a second.
Called by: adapters.

Whoever listens holds an advisory lock as long as the connection lives. So whoever rings can tell
the dead, and the ring is not lost on them.
"""

from selectors import EVENT_READ, DefaultSelector

from dibs.errors import BrokerError
from dibs.wires.libpq.session import Session

RING_SECONDS = 0.1
"""How long a ring is waited for that was sent before the answer which told of it."""


class Listener:
    """A bell that may be rung for queues, and for the ends of messages."""

    def __init__(self, session: Session | None, worker_id: bytes) -> None:
        self._session = session
        self._channel = f"dibs_{worker_id.hex()}"
        # A selector has a descriptor that can be waited on; the connection in it may be exchanged.
        self._selector = DefaultSelector()
        self._asked = False
        self._watched: int | None = None
        self.armed: frozenset[str] = frozenset()  # the queues that it is to be rung for
        self.awaited: frozenset[bytes] = frozenset()

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
            try:
                self._listen(self._session)
            except BrokerError:
                self._forget()
                return None
        elif b"work" in rang:
            self.armed = frozenset()
        return self._channel

    def disarm(self, *, rung: bool) -> None:
        """Note that its holder waits no more; a ring that is on its way to it is taken in."""
        was_armed, self.armed = self.armed, frozenset()
        if was_armed and rung:
            self._selector.select(RING_SECONDS)
            self.channel()

    def close(self) -> str | None:
        """Listen no more; return where it did."""
        channel = self._channel if self._watched is not None else None
        self._asked = False
        self._forget()
        self._selector.close()
        return channel

    def _listen(self, session: Session) -> None:
        self._forget()
        lock = f"SELECT pg_advisory_lock_shared(hashtextextended('{self._channel}', 0))"
        session.execute(f'LISTEN "{self._channel}"', lock)
        self._watched = session.socket()
        self._selector.register(self._watched, EVENT_READ)

    def _forget(self) -> None:
        self.armed, self.awaited = frozenset(), frozenset()
        if self._session is not None:
            if self._watched is not None:
                self._selector.unregister(self._watched)
                self._watched = None
            self._session.close()
