"""The bell: a channel of the server that is listened to on a connection of its own.

Owns: that connection, and the descriptor that stays the same while connections come and go.
Must never: read what a ring says: that there was one is all.
Called by: `RedisBroker`, once somebody asked for its bell.

A channel and not a blocking read: the server tells whoever rings how many heard it, so a waiter
that is gone costs nobody a ring, and there is nothing to ask for anew after each.
"""

import selectors
import socket
import ssl

from dibs.wires.resp.link import Link


class Bell:
    """Rung by the scripts, through `bell:` and the name of the waiter."""

    def __init__(self, link: Link, waiter: str) -> None:
        self._link = link
        self._channel = f"{link.namespace}bell:{waiter}"
        self._selector = selectors.DefaultSelector()
        self._stream: socket.socket | None = None

    def fileno(self) -> int:
        """Return a descriptor that is readable when it was rung, or when its connection is lost."""
        return self._selector.fileno()

    def hear(self) -> None:
        """Forget the rings so far; hang it up if it does not hang.

        Raises:
            BrokerUnavailable: the server cannot be reached.
        """
        if self._stream is not None and not _drained(self._stream):
            self.take_down()
        if self._stream is None:
            self._link.call("SUBSCRIBE", self._channel)
            stream = self._link.socket()
            stream.setblocking(False)
            self._selector.register(stream, selectors.EVENT_READ)
            self._stream = stream

    def take_down(self) -> None:
        """Let go of the connection."""
        if self._stream is not None:
            self._selector.unregister(self._stream)
            self._stream = None
        self._link.close()

    def close(self) -> None:
        """Give up the descriptor."""
        self.take_down()
        self._selector.close()


def _drained(stream: socket.socket) -> bool:
    """Read what came; return whether more may come."""
    try:
        while stream.recv(4_096):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False
