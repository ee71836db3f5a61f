"""A TCP proxy in front of a broker, whose network is as bad as a test says.

Owns: a listening socket, a thread with an event loop, and every connection through it.
Must never: change a byte, reorder what one connection sends, or leave a socket open behind it.
Called by: tests, dibs' own and those of whoever writes a broker.

    with Proxy("127.0.0.1", 6379) as proxy:
        broker = open_broker(f"redis://127.0.0.1:{proxy.port}/0", ...)
        proxy.suffer(Faults(stalled=True))  # in force when this returns
        ...
        proxy.heal()

Its methods are for any thread. The randomness of jitter and of resets is of a seed, so that a run
can be repeated as far as the machine allows.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from dibs.testing.faults import Course, Faults, LostReply, Traffic
from dibs.testing.wire import Link

__all__ = ["Faults", "LostReply", "Proxy", "Traffic"]

BACKLOG = 128
ANSWER_SECONDS = 10.0
"""How long the proxy's thread may take to do what it is asked: a limit for what is broken."""


class Proxy:
    """Listens at `host:port`, a free port of the loopback, and passes on to a server.

    Where the server cannot be reached, a client is accepted and then reset.
    """

    def __init__(self, server_host: str, server_port: int, *, seed: int = 0) -> None:
        self._server = server_host, server_port
        self._course = Course(seed)
        self._links: set[Link] = set()
        self._joining: set[asyncio.Task[None]] = set()
        self._unanswered: list[socket.socket] = []
        self._filler: socket.socket | None = None
        self._fillers: set[tuple[str, int]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self.host, self.port = self._listener.getsockname()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dibs-proxy", daemon=True)
        self._thread.start()
        self._begun.wait(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def faults(self) -> Faults:
        """What is in force."""
        return self._course.faults

    @property
    def traffic(self) -> Traffic:
        """What went through so far."""
        return self._course.seen()

    def suffer(self, faults: Faults) -> None:
        """Let `faults` be in force, instead of those before, on every connection."""
        self._do(lambda: self._change(faults))

    def heal(self) -> None:
        """Let nothing be wrong any more. Who vanished, or was never answered, stays so."""
        self.suffer(Faults())

    def reset(self) -> None:
        """Reset every connection that is there, at both ends."""
        self._do(lambda: self._each(Link.reset))

    def vanish(self) -> None:
        """Let every connection that is there be dead for good, half-open at either end.

        No byte goes through any more and neither peer is told, not even of the other's end. New
        connections are as good as ever.
        """
        self._do(lambda: self._each(Link.vanish))

    def close(self) -> None:
        """Reset what is left, and give up every socket. Closing twice is harmless."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(ANSWER_SECONDS)

    def _do(self, act: Callable[[], None]) -> None:
        async def acting() -> None:
            act()

        asyncio.run_coroutine_threadsafe(acting(), self._loop).result(ANSWER_SECONDS)

    # From here on in the proxy's own thread

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._loop.add_reader(self._listener, self._accept)
        self._begun.set()
        await self._over.wait()
        self._loop.remove_reader(self._listener)
        await asyncio.sleep(0)  # until each of these has begun, and its socket is somebody's
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        self._each(Link.abort)
        await asyncio.sleep(0)  # their sockets are closed in the loop's next turn
        for sock in (self._listener, self._filler, *self._unanswered):
            if sock is not None:
                sock.close()

    def _change(self, faults: Faults) -> None:
        self._course.change(faults)
        self._listen(faults.connects != "ignored")
        self._each(Link.change)

    def _each(self, act: Callable[[Link], None]) -> None:
        for link in list(self._links):
            act(link)

    def _listen(self, wanted: bool) -> None:
        """Let the kernel accept connections, or drop whoever knocks, as it does in a full queue."""
        if wanted and self._filler is not None:
            self._filler.close()
            self._filler = None
            self._listener.listen(BACKLOG)
            self._loop.add_reader(self._listener, self._accept)
        elif not wanted and self._filler is None:
            self._accept()
            self._loop.remove_reader(self._listener)
            self._listener.listen(0)  # room for one, which is a connection of our own
            self._filler = socket.socket()
            self._filler.setblocking(False)
            self._filler.connect_ex((self.host, self.port))
            self._fillers.add(self._filler.getsockname())

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, address = self._listener.accept()
                if address in self._fillers:
                    self._fillers.discard(address)
                    sock.close()
                elif self._course.faults.connects == "answered":
                    self._join(sock)
                else:
                    self._unanswered.append(sock)

    def _join(self, sock: socket.socket) -> None:
        link = Link(self._course, self._links.discard)
        task = self._loop.create_task(self._joined(link, sock))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _joined(self, link: Link, sock: socket.socket) -> None:
        """Make both ends of a link: a client's socket, and a connection to the server."""
        self._links.add(link)
        await self._loop.connect_accepted_socket(lambda: link.client, sock)
        try:
            await self._loop.create_connection(lambda: link.server, *self._server)
        except OSError:  # the server is not there
            link.abort()
        else:
            self._course.traffic.connections += 1
            link.steer()
