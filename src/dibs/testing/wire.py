"""One connection through the proxy: a client's socket, a server's, and what goes between them.

Owns: the two sockets of each connection, and the bytes that are on their way.
Must never: decide what is wrong with the network (`Course` says it), hold more than a bounded
number of bytes, or tell one end what happened to the other unless the fault would.
Called by: `Proxy`, in the thread of its event loop.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from dibs.testing.faults import Course

MOST_BYTES = 1 << 20
"""How much may wait on its way to one end before the other is read no more."""

SHOWN_BYTES = 1 << 16
"""How much of a request, and of its reply, is kept to be recognised."""

END = b""
"""In the place of bytes: there are no more, this side has shut down its half."""


def set_to_reset(sock: socket.socket) -> None:
    """Let the close of a socket be a reset: what is unsent is thrown away, the peer is told so."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class End(asyncio.Protocol):
    """One end of a link. What arrives here is the link's affair; what is sent here may wait."""

    _transport: asyncio.Transport | None = None

    def __init__(self, link: "Link") -> None:
        self._link = link
        self._waiting: deque[tuple[float, memoryview]] = deque()
        self._waiting_bytes = 0
        self._full = False
        self._timer: asyncio.Handle | None = None
        self._heard_end = self._said_end = False
        self._lost = False

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read nothing before the link has both its ends."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()
        if self._link.over:  # cut off while it was being made
            self.reset()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self._link.arrived(self, data)

    def eof_received(self) -> bool:
        """Pass on that there are no more; the other half of the connection stays open."""
        self._heard_end = True
        self._link.arrived(self, END)
        self._close_if_over()
        return True

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._full = True
        self._link.steer()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._full = False
        self.deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed: by us, or, with an error, by the peer."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._link.ended(exc)

    # What the link asks for

    @property
    def is_there(self) -> bool:
        """Whether there is a socket."""
        return self._transport is not None and not self._lost

    @property
    def has_room(self) -> bool:
        """Whether more may be sent to it."""
        return self.is_there and not self._full and self._waiting_bytes < MOST_BYTES

    def read(self, wanted: bool) -> None:
        """Read from the peer, or leave it alone."""
        if self._transport is not None and wanted:
            self._transport.resume_reading()
        elif self._transport is not None:
            self._transport.pause_reading()

    def send(self, data: bytes, at: float) -> None:
        """Send bytes, not before `at`, after all that was sent before."""
        if self._waiting:
            at = max(at, self._waiting[-1][0])
        self._waiting.append((at, memoryview(data)))  # pieces are cut off without a copy
        self._waiting_bytes += len(data)
        self.deliver()

    def deliver(self) -> None:
        """Write what is due and may go now, and come again for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and not (self._lost or self._full or self._link.stalled):
            at, data = self._waiting[0]
            if at > loop.time():
                self._timer = loop.call_at(at, self.deliver)
                break
            self._waiting.popleft()
            size = self._link.segment_bytes or len(data)
            piece, rest = data[:size], data[size:]
            self._waiting_bytes -= len(piece)
            self._write(piece)
            if rest:  # in the next turn, so that a reader has a chance to find this one alone
                self._waiting.appendleft((at, rest))
                self._timer = loop.call_soon(self.deliver)
                break
        self._link.steer()

    def reset(self) -> None:
        """Cut the connection off; the peer is told by a reset."""
        if self._transport is not None and not self._lost:
            set_to_reset(self._transport.get_extra_info("socket"))
            self._transport.abort()

    def close(self) -> None:
        """End the connection, after all that was written has gone."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: memoryview) -> None:
        transport = self._transport
        assert transport is not None
        if not data:
            self._said_end = True
            transport.write_eof()
            self._close_if_over()
            return
        transport.write(self._link.counted(self, data))
        if self._link.outlived:
            self._link.reset()

    def _close_if_over(self) -> None:
        if self._heard_end and self._said_end:
            self.close()


class Link:
    """A client's connection, and the one to the server that was made for it."""

    def __init__(self, course: Course, on_end: Callable[["Link"], None]) -> None:
        self._course = course
        self._on_end = on_end
        self.client = End(self)
        self.server = End(self)
        self._vanished = False
        self.over = False
        self._left = course.bytes_to_live()
        self._request = self._reply = b""
        self._recognised = self._loses = False

    @property
    def stalled(self) -> bool:
        """Whether nothing goes through now."""
        return self._vanished or self._course.faults.stalled

    @property
    def segment_bytes(self) -> int:
        """The size of pieces, 0 for whatever came."""
        return self._course.faults.segment_bytes

    @property
    def outlived(self) -> bool:
        """Whether as many bytes went through as were to, before a reset."""
        return self._left == 0

    def change(self) -> None:
        """Live by the faults that are in force from now on."""
        self._left = self._course.bytes_to_live()
        self._request = self._reply = b""
        self._recognised = self._loses = False
        self.client.deliver()
        self.server.deliver()

    def steer(self) -> None:
        """Read where there is room for what comes."""
        self.client.read(not self.stalled and self.server.has_room)
        self.server.read(not self.stalled and self.client.has_room)

    def arrived(self, end: End, data: bytes) -> None:
        """Take what a peer has sent."""
        at = asyncio.get_running_loop().time() + self._course.delay_seconds()
        if end is self.client:
            self._look_at_request(data)
            self.server.send(data, at)
        elif self._loses:
            self._swallow(data)
        else:
            self._request, self._recognised = b"", False
            self.client.send(data, at)

    def counted(self, end: End, data: memoryview) -> memoryview:
        """Return what of `data` goes to an end, before a reset if that is due."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if end is self.server:
            self._course.traffic.up_bytes += len(data)
        else:
            self._course.traffic.down_bytes += len(data)
        return data

    def reset(self) -> None:
        """Cut off both ends, for all to see."""
        if not self.over:
            self._course.traffic.resets += 1
            self.abort()

    def vanish(self) -> None:
        """Be dead for good, and let neither end know."""
        self._vanished = True
        self.steer()

    def abort(self) -> None:
        """Cut off both ends."""
        self.over = True
        self.client.reset()
        self.server.reset()

    def ended(self, error: Exception | None) -> None:
        """Note that one end is closed; a peer's reset is passed on."""
        if error is not None and not self._vanished:
            self.abort()
        if not self.client.is_there and not self.server.is_there:
            self._on_end(self)

    def _look_at_request(self, data: bytes) -> None:
        lost = self._course.faults.lost_reply
        if lost is None or self._recognised or len(self._request) >= SHOWN_BYTES:
            return
        self._request = (self._request + data)[:SHOWN_BYTES]
        if lost.to(self._request):
            self._recognised = True
            self._loses = self._course.loses_reply()

    def _swallow(self, data: bytes) -> None:
        lost = self._course.faults.lost_reply
        self._reply = (self._reply + data)[:SHOWN_BYTES]
        if lost is not None and (data == END or lost.reply(self._reply)) and not self.over:
            self.over = True
            self._course.traffic.lost_replies += 1
            self.client.reset()
            # In order: what the client has sent behind its request is on its way there.
            self.server.close()
