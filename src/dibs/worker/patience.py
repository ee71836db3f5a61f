"""Trouble with the broker, and when to call it again.

Owns: the time before which the broker is not called, growing while it fails, and that people are
told of each kind of trouble once.
Must never: wait, or call by itself.
Called by: the settler, the upkeep and the pump, around every call of the broker, and the service,
around the one before them.
"""

from dibs.clock import Clock
from dibs.errors import BrokerDamaged, BrokerError
from dibs.events import BrokerBack, BrokerTrouble, Observer

FIRST_RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 5.0


class Patience:
    """How long the broker is left alone."""

    def __init__(self, clock: Clock, observe: Observer) -> None:
        self._clock = clock
        self._observe = observe
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._since: float | None = None
        self._told = ""
        self.retry_at = 0.0

    def allows(self, now: float) -> bool:
        """Whether the broker may be called."""
        return now >= self.retry_at

    def failed(self, error: BrokerError) -> None:
        """Note that a call failed: the wait counts from its end, which may be seconds after.

        Raises:
            BrokerDamaged: that is what failed, and no patience helps.
        """
        if isinstance(error, BrokerDamaged):
            raise error
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        self.retry_at = now + self._retry_seconds
        kind = type(error).__name__
        if kind != self._told:  # it is tried again and again, and people were told
            self._told = kind
            self._observe(BrokerTrouble(kind, str(error), self._retry_seconds))
        self._retry_seconds = min(LONGEST_RETRY_SECONDS, 2 * self._retry_seconds)

    def worked(self, now: float) -> None:
        """Note that a call got its answer."""
        if self._since is not None:
            self._observe(BrokerBack(now - self._since))
            self._since = None
            self._told = ""
            self._retry_seconds = FIRST_RETRY_SECONDS
