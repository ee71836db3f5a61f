"""Several descriptors as one that a selector may keep.

Must never: block.
Called by: the adapter, whose connections come and go while its bell stays.
"""

from selectors import EVENT_READ, DefaultSelector

from dibs.wakepipe import WakePipe


class Bell:
    """Readable while one of its sockets is, or after a ring until it is drained."""

    def __init__(self) -> None:
        self._wake = WakePipe()
        self._rung = False
        self._several = DefaultSelector()
        self.add(self._wake.fileno())

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._several.fileno()

    def add(self, descriptor: int) -> None:
        """Listen to a socket as well, until it is closed."""
        if descriptor in self._several.get_map():  # it was that of a socket which is closed
            self._several.unregister(descriptor)
        self._several.register(descriptor, EVENT_READ)

    def ring(self) -> None:
        """Be readable until drained."""
        if not self._rung:
            self._rung = True
            self._wake.ring()

    def drain(self) -> None:
        """Forget the rings; what a socket has to say is still to be read."""
        if self._rung:
            self._rung = False
            self._wake.drain()

    def close(self) -> None:
        """Give up the descriptors."""
        self._several.close()
        self._wake.close()
