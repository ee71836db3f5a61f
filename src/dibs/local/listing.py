"""The names in a folder, for those who look at it all the time.

Must never: miss a change that was made before the look. Called by: the bells.
"""

import os
import time

TICK_NS = 2_000_000_000
"""A folder's time of change goes on by this at most: by milliseconds on most file systems, but some
keep whole seconds."""


class Listing:
    """The names in a folder, read again when it has changed.

    Every publisher and every acknowledgement looks, and mostly nothing has changed: to ask for the
    time of the last change is a quarter of the cost of reading the names.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._changed_ns = -1
        self._names: list[str] = []

    def names(self) -> list[str]:
        """Return them; none, if there is no such folder."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
            if changed_ns == self._changed_ns:
                return self._names
            self._names = os.listdir(self._folder)
        except OSError:
            return []
        # What changes within the tick of the last change, and after it was read, has its time too.
        settled = time.time_ns() - changed_ns > TICK_NS
        self._changed_ns = changed_ns if settled else -1
        return self._names
