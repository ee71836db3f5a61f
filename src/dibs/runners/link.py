"""The pump's end of a socket pair: frames out, frames in, never blocking.

Owns: the bytes that wait for room in the socket, and the frames that have arrived.
Must never: block, or know what a frame means.
Called by: `processes.py` and `inprocess.py`, which make it a `Runner`.
"""

import contextlib
import socket

from dibs.runners.contract import Down, FrameBuffer, Up, decode_up, encode

_RECEIVE_BYTES = 1 << 18


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
        except BlockingIOError:
            return
        except OSError:
            self._waiting.clear()

    def receive(self) -> list[Up]:
        """Return the frames that have arrived."""
        frames: list[Up] = []
        while not self.ended:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.ended = not data
            frames += map(decode_up, self._frames.feed(data))
            if len(data) < _RECEIVE_BYTES:
                break  # spares a call that would say that there is no more
        return frames

    def close(self) -> None:
        """Close the socket: the other end reads the end of the stream."""
        with contextlib.suppress(OSError):
            self._socket.close()
