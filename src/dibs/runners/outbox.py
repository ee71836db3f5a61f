"""The way back: outcomes collected from all slots, sent to the pump in frames.

Owns: the socket's writing side. A slot that finds many outcomes collected sends them itself as far
as there is room; everything else is a thread's, so that user code never waits for the pump.
Must never: hold an outcome back: it sends as soon as it gets the processor, and what collects
meanwhile goes in one frame.
Called by: the loop and the thread runner (`acked`, `put`, `wake`), the host.
"""

import os
import socket
import threading
from collections.abc import Callable
from time import monotonic_ns

from dibs.local.fork import drop_in_child
from dibs.message import Outcome
from dibs.runners.contract import Done, Up, encode


class Outbox:
    """Outcomes on their way to the pump.

    `acked` takes the serials of plain acknowledgements, by far the most, without a call in between:
    append, then `if not awake: wake()`. List operations are atomic in CPython.
    """

    def __init__(self, link: socket.socket, broken: Callable[[], None]) -> None:
        self.acked: list[int] = []
        self.awake = False
        self._others: list[tuple[int, Outcome]] = []
        self._frames: list[Up] = []
        self._rest = b""
        """What of a frame did not fit into the socket; nothing may be sent before it."""
        self._sending = threading.Lock()
        self._expecting = threading.Lock()
        self._bell = threading.Semaphore(0)
        self._link = link
        self._broken = broken
        self._closed = False
        self._forked = False
        self._received = 0
        self._answered = 0
        self._since = 0
        self._thread = threading.Thread(target=self._run, name="dibs-outbox", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()
        drop_in_child(self)

    def drop(self) -> None:
        """In a child that a task forked, give up the link: its first outcome ends the child.

        A child that comes back from its task would go on with jobs that are its parent's.
        """
        self._forked = True
        self.acked, self._others, self.awake = [], [], False
        self._link.close()

    def expect(self, jobs: int) -> None:
        """Note that jobs have arrived. Any thread may call."""
        with self._expecting:
            if self._received == self._answered:
                self._since = monotonic_ns()
            self._received += jobs

    def put(self, serial: int, outcome: Outcome) -> None:
        """Send the outcome of a job."""
        self._others.append((serial, outcome))
        if not self.awake:
            self.wake()

    def tell(self, frame: Up) -> None:
        """Send any other frame."""
        self._frames.append(frame)
        self.wake()

    def wake(self) -> None:
        """Make the thread look. `awake` spares most callers the call; a wake too many is free."""
        if self._forked:
            os._exit(1)
        self.awake = True
        self._bell.release()

    def relieve(self) -> None:
        """Send what is there, from a slot's own thread, without waiting.

        For the stream of quick jobs: a thread would have to wait for the interpreter's lock, up to
        its switch interval of 5 ms, and the pump would run dry meanwhile.
        """
        if not self._sending.acquire(blocking=False):
            return
        try:
            if not self._rest:
                self._rest = self._outcomes()
                self._rest = self._rest[self._link.send(self._rest, socket.MSG_DONTWAIT) :]
        except OSError:
            pass  # no room, or no pump: either is for the thread, which can wait and can tell
        finally:
            self._sending.release()
        if self._rest:
            self.wake()

    def close(self) -> None:
        """Send what is there, then end."""
        self._closed = True
        self.wake()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._bell.acquire()
                # Cleared before looking: whoever adds after the look sees it and wakes us again.
                self.awake = False
                self._send_all()
        except OSError:
            self._broken()

    def _send_all(self) -> None:
        with self._sending:
            rest, self._rest = self._rest, b""
            frames, self._frames = self._frames, []
            self._link.sendall(b"".join((rest, *map(encode, frames), self._outcomes())))

    def _outcomes(self) -> bytes:
        # Cut off what is there by count: a slot may append to the same list meanwhile.
        acked = self.acked[:]
        del self.acked[: len(acked)]
        others = self._others[:]
        del self._others[: len(others)]
        if not acked and not others:
            return b""
        now = monotonic_ns()
        took, self._since = now - self._since, now
        self._answered += len(acked) + len(others)
        return encode(Done(acked, others, took))
