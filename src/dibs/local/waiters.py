"""Who waits within one process: for work, or for the end of a message.

What `bells` is between processes. Must never: lock; whoever calls holds the lock of what is waited
for. Called by: brokers that live in one process.
"""

from collections.abc import Iterable, Sequence

from dibs.wakepipe import WakePipe


class Waiters:
    """The bells of those who found nothing."""

    def __init__(self) -> None:
        self._armed: dict[WakePipe, Sequence[str]] = {}
        self._awaited: dict[WakePipe, set[bytes]] = {}

    def arm(self, bell: WakePipe, queues: Sequence[str]) -> None:
        """Forget the rings so far, and ring `bell` once when there is something in `queues`."""
        bell.drain()
        self._armed.pop(bell, None)  # whoever asks again has waited less long than others
        if queues:
            self._armed[bell] = queues

    def ring(self, queues: Iterable[str]) -> None:
        """Ring once, for each queue, whoever has waited longest for it."""
        for queue in dict.fromkeys(queues):
            bell = next((bell for bell, awaited in self._armed.items() if queue in awaited), None)
            if bell is not None:
                del self._armed[bell]
                bell.ring()

    def await_ends(self, bell: WakePipe, ids: Iterable[bytes]) -> None:
        """Forget the rings so far, and ring `bell` when one of `ids` ends, and no other."""
        bell.drain()
        self._awaited[bell] = set(ids)

    def ring_ends(self, ended: set[bytes]) -> None:
        """Ring everybody who waits for one of these."""
        for bell, awaited in self._awaited.items():
            if awaited & ended:
                bell.ring()

    def forget(self, bell: WakePipe) -> None:
        """Ring it for nothing any more."""
        self._armed.pop(bell, None)
        self._awaited.pop(bell, None)
