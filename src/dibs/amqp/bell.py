"""Several descriptors as one that a selector may keep.

Must never: block.
Called by: the adapter, whose connections come and go while its bell stays.
"""

import select

from dibs.wakepipe import WakePipe


class Bell:
    """Readable while one of its sockets is, or after a ring until it is drained."""

    def __init__(self) -> None:
        self._wake = WakePipe()
        self._rung = False
        self._set = select.epoll() if hasattr(select, "epoll") else select.kqueue()
        self.add(self._wake.fileno())

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._set.fileno()

    def add(self, descriptor: int) -> None:
        """Listen to a socket as well, until it is closed."""
        if hasattr(select, "epoll"):
            self._set.register(descriptor, select.EPOLLIN)
        else:
            self._set.control([select.kevent(descriptor)], 0)

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
        self._set.close()
        self._wake.close()
