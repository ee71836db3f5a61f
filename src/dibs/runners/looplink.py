"""The runner's end of the loop's link: coroutines that are to run, read by the loop itself.

An idle loop is woken by the pump's own write. By way of the link's thread there would be one wake
more, which costs as much as the rest of the way from the pump to the job (benchmarks: `latency`).
Owns: the socket, and how many jobs have come over it.
Must never: leave a job unread that is asked back: then the link's thread reads, for the loop may
be blocked. Called by: the loop runner (`read`), the host's link thread (`read_until`).
"""

import select
import socket
import threading
from collections.abc import Callable

from dibs.local.fork import drop_in_child
from dibs.message import Lease
from dibs.runners.contract import RECEIVE_BYTES, Await, FrameBuffer, decode_down


class LoopLink:
    """Reads frames of the loop's link; `take` is called with the jobs of each, by who reads."""

    def __init__(self, link: socket.socket, take: Callable[[int, list[Lease]], None]) -> None:
        link.setblocking(False)
        self._link = link
        # Kept, because a socket that was closed meanwhile has none, and must be found ended.
        self._descriptor = link.fileno()
        self._take = take
        self._frames = FrameBuffer()
        self._room = memoryview(bytearray(RECEIVE_BYTES))
        self._reading = threading.Lock()
        self._jobs = 0
        self._ended = False
        drop_in_child(self)

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to read."""
        return self._descriptor

    def read(self) -> bool:
        """Take in what there is, if nobody else is at it; return whether there will be more."""
        if self._reading.acquire(blocking=False):
            try:
                self._receive()
            finally:
                self._reading.release()
        return not self._ended

    def read_until(self, jobs: int) -> None:
        """Take in what comes until so many jobs have come in all: they were sent, so they come."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        with self._reading:
            while self._jobs < jobs and not self._ended:
                poll.poll()
                self._receive()

    def drop(self) -> None:
        """In a forked child, give up the copy."""
        self._link.close()

    def _receive(self) -> None:
        try:
            size = self._link.recv_into(self._room)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._ended = not size
        for body in self._frames.feed(self._room[:size]):
            frame = decode_down(body)
            assert isinstance(frame, Await)
            self._jobs += len(frame.leases)
            self._take(frame.first, frame.leases)
