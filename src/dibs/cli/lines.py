"""Lines on their way to a terminal, a file or a pipe.

Owns: that a reader who is slow, or gone, costs the worker nothing but the lines.
Must never: block the pump's thread for long, or raise.
Called by: `terminal.py`, `worker.py`.
"""

import os
import select
from collections.abc import Callable

WAIT_SECONDS = 0.2
"""How long one text may wait for its reader, all in all; none does while others were lost."""

_CHUNK_BYTES = 1_024
"""Less than any pipe or terminal takes at once when it says that it takes anything."""

Write = Callable[[str], None]


class Lines:
    """Writes texts to a descriptor; what its reader does not take is dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._dropped = 0

    def __call__(self, text: str) -> None:
        """Write whole lines, or drop them."""
        if self._dropped:
            notice = f"... {self._dropped:,} lines lost: nobody read them in time\n"
            if not self._write(notice, tries=1, seconds=0.0):
                self._dropped += text.count("\n")
                return
            self._dropped = 0
        if not self._write(text, tries=4, seconds=WAIT_SECONDS / 4):
            self._dropped += text.count("\n")

    def _write(self, text: str, *, tries: int, seconds: float) -> bool:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data:
                # A pipe or terminal that is full would hold up every job of this worker.
                if not select.select([], [self._descriptor], [], seconds)[1]:
                    tries -= 1
                    if not tries:
                        return False
                    continue
                data = data[os.write(self._descriptor, data[:_CHUNK_BYTES]) :]
        except (OSError, ValueError):
            return False
        return True
