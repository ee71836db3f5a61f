"""The black box: what a runner's slots are at, in memory shared with the pump.

Owns: the layout of that memory.
Must never: be trusted to be written by a sane process: it is read after a crash.
Called by: the slots (write), the pump's side of a runner (`running`, `last`).

Layout: two unsigned 64-bit words per slot, the start in nanoseconds of CLOCK_MONOTONIC (one clock
for all processes of a machine), 0 for an idle slot, and the serial + 1 of the job that runs in it,
or ran last. The start is written first: a reader never sees a serial with the start of an earlier
job.
"""

import mmap
import os
from typing import Final

WORDS: Final = 2
_WORD_BYTES: Final = 8


class BlackBox:
    """The shared memory, as both sides see it."""

    def __init__(self, descriptor: int, slots: int) -> None:
        self.words = memoryview(mmap.mmap(descriptor, slots * WORDS * _WORD_BYTES)).cast("Q")

    def running(self) -> dict[int, float]:
        """Return serial -> start in seconds, for each slot at work."""
        words = self.words.tolist()
        pairs = zip(words[::WORDS], words[1::WORDS], strict=True)
        return {serial - 1: start / 1e9 for start, serial in pairs if start and serial}

    def last(self) -> set[int]:
        """Return what the slots were at last, still running or not."""
        return {serial - 1 for serial in self.words[1::WORDS].tolist() if serial}

    @staticmethod
    def allocate(slots: int) -> int:
        """Return the descriptor of fresh memory for `slots` slots; it lives while it is open."""
        descriptor = _memory_file()
        os.ftruncate(descriptor, slots * WORDS * _WORD_BYTES)
        return descriptor


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dibs-slots")
    import tempfile  # as costly to import as all the rest of this start

    descriptor, path = tempfile.mkstemp(prefix="dibs-slots-")
    os.unlink(path)
    return descriptor
