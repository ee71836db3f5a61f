"""A descriptor to wait on, and the way to make it readable from any thread.

Must never: block whoever rings, or lose a ring that nobody has read yet.
Called by: whoever waits in a selector for something that is no file.
"""

import contextlib
import os


class WakePipe:
    """A pipe whose bytes mean nothing but that somebody rang."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    @property
    def writer(self) -> int:
        """The descriptor that rings with each byte written to it."""
        return self._writer

    def fileno(self) -> int:
        """Return the descriptor that is readable once it was rung."""
        return self._reader

    def ring(self) -> None:
        """Make it readable; from a signal handler too, and after it was closed."""
        with contextlib.suppress(OSError):  # full: it is readable already; or closed
            os.write(self._writer, b"!")

    def drain(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._reader, 4_096)) == 4_096:
                pass

    def close(self) -> None:
        """Give up both ends."""
        # First, so that no ring goes to another file that gets the number.
        writer, self._writer = self._writer, -1
        os.close(self._reader)
        os.close(writer)
