"""The pump's ends of the socket pairs to a runner: frames out, frames in, never blocking.

Owns: the bytes that wait for room in a socket, the frames that have arrived, and which frame goes
over which of the two.
Must never: block, or look into a frame.
Called by: `processes.py` and `inprocess.py`, which make it a `Runner`.
"""

import contextlib
import errno
import socket
from collections.abc import Sequence

from dibs.runners.contract import RECEIVE_BYTES, Await, Down, FrameBuffer, Up, decode_up, encode

_NOT_NOW = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS}
"""There is no room: what waits goes later, for the other end counts what was sent."""


class Link:
    """One socket, used by the pump's thread alone. `ended`: the other end is closed."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._frames = FrameBuffer()
        self._waiting = bytearray()
        self.ended = False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def wants_write(self) -> bool:
        """Whether bytes wait for room."""
        return bool(self._waiting)

    def send(self, frame: Down) -> None:
        """Write a frame as far as there is room, keep the rest."""
        self._waiting += encode(frame)
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as there is room. A dead reader is noticed by `receive`."""
        try:
            while self._waiting:
                sent = self._socket.send(self._waiting)
                del self._waiting[:sent]
        except OSError as error:
            if error.errno not in _NOT_NOW:
                self._waiting.clear()

    def receive(self) -> list[Up]:
        """Return the frames that have arrived."""
        frames: list[Up] = []
        while not self.ended:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.ended = not data
            frames += map(decode_up, self._frames.feed(data))
            if len(data) < RECEIVE_BYTES:
                break  # spares a call that would say that there is no more
        return frames

    def close(self) -> None:
        """Close the socket: the other end reads the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.close()


class Links:
    """The link and the loop's link; `theirs` are the other ends of both, for the runner."""

    def __init__(self) -> None:
        pairs = socket.socketpair(), socket.socketpair()
        self.theirs = pairs[0][1], pairs[1][1]
        self._link, self._loops = (Link(ours) for ours, _ in pairs)

    def fileno(self) -> int:
        """Return the descriptor that frames come from."""
        return self._link.fileno()

    def send(self, frame: Down) -> None:
        """Send a frame the way it goes."""
        (self._loops if isinstance(frame, Await) else self._link).send(frame)

    def unsent(self) -> Sequence[int]:
        """Return the descriptors at which bytes wait for room."""
        return [link.fileno() for link in (self._link, self._loops) if link.wants_write()]

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        self._link.flush()
        self._loops.flush()

    def receive(self) -> list[Up]:
        """Return the frames that have arrived."""
        return self._link.receive()

    def close(self) -> None:
        """Close our ends of both."""
        self._link.close()
        self._loops.close()
