"""The proxy does to a connection what it was told, and nothing else."""

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dibs.testing.faults import Course
from dibs.testing.proxy import Faults, LostReply, Proxy
from dibs.testing.wire import Link
from tests.worker.workers import SECONDS, until

BRIEF = 0.2
"""For what is to be silent: so long nothing comes."""


class Echo:
    """A server that sends back what it gets, and ends when its peer does; all is written down."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        self.ends: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def _listen(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if not self._threads:
                return sock.close()
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        number = len(self.heard)
        self.heard.append(b"")
        with sock:
            try:
                while data := sock.recv(65_536):
                    self.heard[number] += data
                    self.hold.wait(SECONDS)
                    sock.sendall(data)
                self.ends.append("end")
            except ConnectionError:
                self.ends.append("reset")

    def close(self) -> None:
        """End the threads; every peer must have ended before."""
        threads, self._threads = self._threads, []
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as opened:
        yield opened


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connected(proxy) as sock:
        assert echoed(sock, b"hello") == b"hello"
        yield sock


def connected(proxy: Proxy, seconds: float = SECONDS) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), seconds)


def read(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes, or fewer if there are no more."""
    data = bytearray()
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return bytes(data)


def first_byte(proxy: Proxy) -> bytes:
    """Connect, and wait for what is said first."""
    with connected(proxy) as sock:
        return sock.recv(1)


def read_until_reset(sock: socket.socket) -> bytes:
    """Read until the connection is reset."""
    data = b""
    try:
        while part := sock.recv(65_536):
            data += part
    except ConnectionResetError:
        return data
    raise AssertionError("it ended in order")


def echoed(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return read(sock, len(data))


def is_silent(sock: socket.socket) -> bool:
    """Whether nothing comes, no byte and no end."""
    return select.select([sock], [], [], BRIEF)[0] == []


# A fair network


def test_what_is_sent_arrives_as_it_was(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    data = os.urandom(3_000_000)
    thread = threading.Thread(target=client.sendall, args=(data,))
    thread.start()
    assert read(client, len(data)) == data
    thread.join()
    assert echo.heard == [b"hello" + data]
    assert proxy.traffic.connections == 1
    assert proxy.traffic.up_bytes == proxy.traffic.down_bytes == len(data) + 5


def test_a_half_closed_connection_goes_on_in_the_other_direction(
    client: socket.socket, echo: Echo
) -> None:
    echo.hold.clear()
    client.sendall(b"the last words")
    client.shutdown(socket.SHUT_WR)
    echo.hold.set()
    assert read(client, 100) == b"the last words"
    assert echo.ends == ["end"]


def test_a_peers_reset_is_passed_on(client: socket.socket, echo: Echo) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    until(lambda: echo.ends == ["reset"], "the server sees the reset")


def test_where_no_server_is_a_client_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Proxy("127.0.0.1", port) as proxy:
        with pytest.raises(ConnectionResetError):  # already at the connect, if that is slow to look
            first_byte(proxy)
        assert proxy.traffic.connections == 0


def test_who_does_not_read_holds_up_the_other_and_no_memory_grows(
    client: socket.socket,
) -> None:
    client.setblocking(False)
    sent, block = 0, bytes(1 << 20)
    while select.select([], [client], [], BRIEF)[1]:
        sent += client.send(block)
        assert sent < 100 << 20
    client.settimeout(SECONDS)
    assert read(client, sent) == bytes(sent)


def test_a_closed_proxy_has_reset_every_connection_and_takes_no_more(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    before = threading.active_count()
    proxy.suffer(Faults(connects="accepted"))
    unanswered = connected(proxy)
    proxy.close()
    proxy.close()
    assert read_until_reset(client) == b""
    unanswered.close()
    until(lambda: echo.ends == ["reset"], "the server was reset, too")
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    assert threading.active_count() < before


# A bad one


def test_latency_delays_both_directions_and_keeps_the_order(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.suffer(Faults(latency_seconds=0.05, jitter_seconds=0.05))
    began = time.monotonic()
    for number in range(50):
        client.sendall(b"%03d" % number)
    assert read(client, 150) == b"".join(b"%03d" % number for number in range(50))
    assert 0.05 < time.monotonic() - began < 5


def test_latency_holds_up_nobody_for_longer_than_itself(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.suffer(Faults(latency_seconds=0.1))
    began = time.monotonic()
    for number in range(30):
        client.sendall(b"%03d" % number)
        select.select([], [], [], 0.001)  # a segment of its own
    read(client, 90)
    assert 0.2 <= time.monotonic() - began < 2, "30 of them, one after the other, take 6 s"


def test_the_jitter_of_a_seed_is_the_same_again() -> None:
    def delays(seed: int) -> list[float]:
        course = Course(seed)
        course.change(Faults(latency_seconds=1.0, jitter_seconds=0.5))
        return [course.delay_seconds() for _ in range(100)]

    assert delays(1) == delays(1) != delays(2)
    assert all(0.5 <= delay <= 1.5 for delay in delays(1))


def test_what_is_sent_in_pieces_arrives(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.suffer(Faults(segment_bytes=1))
    client.sendall(b"abcdefgh" * 100)
    assert read(client, 800) == b"abcdefgh" * 100
    assert echo.heard == [b"hello" + b"abcdefgh" * 100]


class Written(asyncio.Transport):
    """A connection's end that keeps what is written to it: on the way, pieces may become one."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def pause_reading(self) -> None:
        """Nobody sends."""

    resume_reading = pause_reading


def test_each_piece_is_written_in_a_turn_of_its_own() -> None:
    course = Course(1)
    course.change(Faults(segment_bytes=3))
    link = Link(course, lambda _: None)

    async def main() -> list[list[bytes]]:
        ends = Written(), Written()
        link.client.connection_made(ends[0])
        link.server.connection_made(ends[1])
        link.client.data_received(b"abcdefgh")
        turns = []
        for _ in range(3):
            turns.append(list(ends[1].pieces))
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(main()) == [[b"abc"], [b"abc", b"def"], [b"abc", b"def", b"gh"]]


def test_a_stalled_network_says_nothing_and_loses_nothing(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.suffer(Faults(stalled=True))
    client.sendall(b"are you there?")
    with connected(proxy) as another:
        another.sendall(b"or you?")
        assert is_silent(client)
        assert is_silent(another)
        assert echo.heard[0] == b"hello"
        proxy.heal()
        assert read(client, 14) == b"are you there?"
        assert read(another, 7) == b"or you?"


def test_a_reply_that_is_on_its_way_waits_for_the_end_of_a_stall(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    echo.hold.clear()
    client.sendall(b"question")
    until(lambda: echo.heard == [b"helloquestion"], "the server has it")
    proxy.suffer(Faults(stalled=True))
    echo.hold.set()
    assert is_silent(client)
    proxy.heal()
    assert read(client, 8) == b"question"


def test_a_reset_is_seen_by_both_ends(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.reset()
    assert read_until_reset(client) == b""
    until(lambda: echo.ends == ["reset"], "the server sees it")
    assert proxy.traffic.resets == 1
    with connected(proxy) as again:
        assert echoed(again, b"once more") == b"once more"


def test_a_connection_is_reset_at_a_random_byte_within_the_limit(proxy: Proxy, echo: Echo) -> None:
    proxy.suffer(Faults(reset_within_bytes=1_000))
    for _ in range(20):
        with connected(proxy) as sock:
            sock.sendall(bytes(2_000))
            assert len(read_until_reset(sock)) < 1_000
    until(lambda: echo.ends == ["reset"] * 20, "the server has seen them")
    lengths = [len(heard) for heard in echo.heard]
    assert max(lengths) <= 1_000
    assert len(set(lengths)) > 10
    assert proxy.traffic.resets == 20
    proxy.heal()
    with connected(proxy) as sock:
        assert echoed(sock, bytes(2_000)) == bytes(2_000)


def test_connections_that_are_there_are_reset_within_bytes_too(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.suffer(Faults(reset_within_bytes=100))
    client.sendall(bytes(1_000))
    read_until_reset(client)


def test_a_peer_that_vanished_sends_neither_bytes_nor_its_end(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.vanish()
    client.sendall(b"are you there?")
    assert is_silent(client)
    with connected(proxy) as another:
        assert echoed(another, b"I am") == b"I am"
    proxy.heal()
    assert is_silent(client)
    client.close()
    until(lambda: echo.ends == ["end"], "the other's end")  # and not this one's
    assert echo.heard == [b"hello", b"I am"]


def test_a_connect_that_is_accepted_and_never_answered_stays_so(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.suffer(Faults(connects="accepted"))
    with connected(proxy) as sock:
        sock.sendall(b"are you there?")
        assert is_silent(sock)
        assert echoed(client, b"old ones go on") == b"old ones go on"
        proxy.heal()
        assert is_silent(sock)
        with connected(proxy) as another:
            assert echoed(another, b"new ones, too") == b"new ones, too"


def test_a_connect_that_is_ignored_waits_for_the_end_of_the_fault(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.suffer(Faults(connects="ignored"))
    with pytest.raises(TimeoutError):
        connected(proxy, BRIEF)
    assert echoed(client, b"old ones go on") == b"old ones go on"
    with socket.socket() as waiting:
        waiting.setblocking(False)
        waiting.connect_ex((proxy.host, proxy.port))
        assert select.select([], [waiting], [], BRIEF)[1] == []
        proxy.heal()
        waiting.settimeout(SECONDS)
        assert select.select([], [waiting], [], SECONDS)[1] == [waiting]
        assert echoed(waiting, b"at last") == b"at last"
    assert len(echo.heard) == 2, "whatever kept the others waiting was no client"


# Lost replies


def is_settle(request: bytes) -> bool:
    return b"settle" in request


def test_a_lost_reply_is_one_whose_request_went_through(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.suffer(Faults(lost_reply=LostReply(is_settle)))
    assert echoed(client, b"claim") == b"claim"
    client.sendall(b"settle")
    assert read_until_reset(client) == b""
    until(lambda: echo.ends != [], "the server is cut off, too")
    assert echo.heard == [b"helloclaimsettle"]
    assert proxy.traffic.lost_replies == 1
    assert proxy.traffic.resets == 0


def test_every_nth_reply_is_lost_over_all_connections(proxy: Proxy) -> None:
    proxy.suffer(Faults(lost_reply=LostReply(is_settle, every=3)))
    answered = []
    sock = connected(proxy)
    for number in range(12):
        assert echoed(sock, b"claim") == b"claim"
        sock.sendall(b"settle")
        try:
            answered.append(read(sock, 6) == b"settle")
        except ConnectionResetError:
            answered.append(False)
        if not answered[-1] or number % 2:
            sock.close()
            sock = connected(proxy)
    sock.close()
    assert answered == [True, True, False] * 4
    assert (proxy.traffic.requests, proxy.traffic.lost_replies) == (12, 4)


def test_a_request_is_recognised_that_comes_in_pieces(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.suffer(Faults(lost_reply=LostReply(is_settle)))
    echo.hold.clear()
    client.sendall(b"set")
    until(lambda: echo.heard == [b"helloset"], "the first half arrived")
    client.sendall(b"tle")
    until(lambda: proxy.traffic.requests == 1, "it was recognised")
    echo.hold.set()
    assert read_until_reset(client) == b""


def test_the_server_says_other_things_before_the_reply_that_is_awaited(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    confirm = b"+confirm"
    proxy.suffer(Faults(lost_reply=LostReply(is_settle, reply=lambda reply: confirm in reply)))
    client.sendall(b"settle")
    until(lambda: proxy.traffic.requests == 1, "it was recognised")
    assert is_silent(client)
    assert proxy.traffic.lost_replies == 0
    client.sendall(b"+con")
    client.sendall(b"firm")
    assert read_until_reset(client) == b""
    assert echo.heard == [b"hellosettle+confirm"]


def test_a_reply_that_waits_when_the_fault_ends_is_not_lost(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.suffer(Faults(lost_reply=LostReply(is_settle)))
    echo.hold.clear()
    client.sendall(b"settle")
    until(lambda: proxy.traffic.requests == 1, "it was recognised")
    proxy.heal()
    echo.hold.set()
    assert read(client, 6) == b"settle"
