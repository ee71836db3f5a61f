"""What the network and the server do to a broker: every call ends, and the next one works."""

import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest
from redis import Redis
from redis.connection import Connection
from redis.sentinel import MasterNotFoundError, Sentinel

from dibs.brokers import contract
from dibs.brokers.contract import CALL_LIMIT_SECONDS, Applied, Broker, Gone, Held, Stored, Unknown
from dibs.brokers.redis import RedisBroker, open_redis
from dibs.clock import SystemClock
from dibs.errors import BrokerError, BrokerFull, BrokerUnavailable, PublishUnknown
from dibs.message import Ack, Settlement
from dibs.states import State
from dibs.testing.making import OUTCOMES, claim, claim_all, ids, message, messages, publish, settle
from dibs.testing.proxy import Faults, Proxy
from dibs.wires.limit import Limit
from dibs.wires.resp.address import Address
from dibs.wires.resp.link import Link
from tests.residue import leaves_nothing
from tests.servers.missing import not_installed
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer, program, serving
from tests.unit.redis.conftest import Open
from tests.unit.steps import each_step
from tests.worker.workers import until

SHORT = 1_000
"""A visibility timeout with which no call may last longer than a sixth of a second."""
BOUND_SECONDS = SHORT / 6_000 + 0.5


def took(call: Callable[[], object]) -> float:
    """Return how long a call takes, whatever it raises."""
    began = time.monotonic()
    with suppress(BrokerError):
        call()
    return time.monotonic() - began


def until_it_works(call: Callable[[], object]) -> None:
    """Call until no error comes: as the pump does, for no longer than it may take."""

    def works() -> bool:
        try:
            call()
        except BrokerUnavailable:
            return False
        return True

    until(works, "it works again", 10)


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """A server that takes what it is sent, and answers nothing until it goes on."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def hurried(broker: Broker) -> None:
    """Let a broker see a short lease, which bounds its calls."""
    publish(broker, message("hurry", visibility_timeout_ms=SHORT))
    for lease in claim(broker, "hurry"):
        settle(broker, lease, Ack())


def test_rule_26_a_server_that_stops_answering_holds_nobody_up(
    own: RedisServer, opener: Open
) -> None:
    broker = opener(own.url())
    hurried(broker)
    publish(broker, *messages(3))
    done, held = claim(broker, limit=2)
    with stopped(own):
        calls = {
            "publish": lambda: broker.publish(messages(1)),
            "claim": lambda: broker.claim(["photos"], 1),
            "queues": lambda: broker.inspector().queues(),
            "results": lambda: broker.results([bytes(16)]),
        }
        for verb, call in calls.items():
            assert took(call) < BOUND_SECONDS, verb
        assert broker.settle([Settlement(done, Ack())]) == [Unknown()]
        assert broker.extend([held]) == [Unknown()]
    # What was asked meanwhile may have been done: no answer of then is taken for one of now.
    until_it_works(lambda: broker.inspector().queues())
    assert settle(broker, done, Ack()) == Gone()
    (again,) = broker.extend([held])
    assert isinstance(again, Held)
    assert settle(broker, held, Ack()) == Applied()


def test_a_publish_whose_answer_is_lost_says_so_and_is_repeated_as_one(
    own: RedisServer, opener: Open
) -> None:
    broker = opener(own.url())
    hurried(broker)
    new = message()
    with stopped(own), pytest.raises(PublishUnknown):
        broker.publish([new])
    until_it_works(lambda: broker.publish([new]))
    assert ids(claim_all(broker)) == [new.id]


def test_rule_26_a_server_that_is_gone_is_told_of_at_once(own: RedisServer, opener: Open) -> None:
    broker = opener(own.url())
    lease = claim(broker) or (publish(broker, message()) and claim(broker))
    own.stop()
    with pytest.raises((BrokerUnavailable, PublishUnknown)):
        broker.publish(messages(1))
    with pytest.raises(BrokerUnavailable):
        broker.publish(messages(1))
    with pytest.raises(BrokerUnavailable):
        broker.settle([Settlement(lease[0], Ack())])
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{own.port}"):
        opener(own.url())


@pytest.mark.parametrize("answer", [b"", b"*5\r\n:1\r\n", b"x"])
def test_rule_26_a_server_that_says_nothing_sensible_is_given_up(
    opener: Open, answer: bytes
) -> None:
    """It accepts and is silent, or sends a byte at a time, or speaks another tongue."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    stream, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=trickle, args=(stream,), daemon=True).start()

        def trickle(stream: socket.socket) -> None:
            with stream:
                while answer and not over.wait(0.3):
                    try:
                        stream.sendall(answer[:1])
                    except OSError:
                        return
                over.wait()

        threading.Thread(target=serve, daemon=True).start()
        url = f"redis://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            opener(url)
        assert time.monotonic() - began < 6
        over.set()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """A limit of half a second, and how long a call may then take here."""
    monkeypatch.setattr(contract, "CALL_LIMIT_SECONDS", 0.5)
    return 1.0


@pytest.mark.parametrize("forgotten", [False, True], ids=["known scripts", "forgotten scripts"])
def test_b11_a_call_of_many_exchanges_lasts_no_longer_than_one(
    running: RedisServer, opener: Open, short: float, forgotten: bool
) -> None:
    """Each answer comes in time."""
    with Proxy("127.0.0.1", running.port) as proxy, running.client() as client:
        url = running.url(proxy.port)
        broker = opener(url)
        inspector = broker.inspector()
        calls: dict[str, Callable[[], object]] = {
            "open": lambda: opener(url),
            "declare": lambda: broker.declare(["photos"]),
            "publish": lambda: broker.publish(messages(1)),
            "claim": lambda: broker.claim(["photos"], 1),
            "results": lambda: broker.results([bytes(16)]),
            "queues": inspector.queues,
            "jobs": lambda: inspector.jobs("photos", State.READY),
            "job": lambda: inspector.job(bytes(16)),
            "findings": inspector.findings,
            "purge": lambda: inspector.purge("none"),
        }
        for call in calls.values():
            call()
        proxy.suffer(Faults(latency_seconds=0.2))
        for verb, call in calls.items():
            if forgotten:
                client.script_flush()
            assert took(call) < short, verb
        proxy.heal()
        until_it_works(lambda: broker.publish(messages(1)))


def test_b11_a_name_of_many_addresses_that_are_silent_takes_no_longer_than_one(
    opener: Open, short: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=0))
        port = listening.getsockname()[1]
        for _ in range(4):  # more than it has room for: who comes then waits
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found = [(*kind, (f"127.0.0.{number}", port)) for number in range(1, 9)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            opener(f"redis://many:{port}")
        assert time.monotonic() - began < short


def test_rule_25_a_server_that_has_too_many_clients_is_waited_for(opener: Open) -> None:
    if program() is None:
        not_installed("Redis", "redis-server")
    with serving("--maxclients", "10") as server, ExitStack() as stack:
        broker = opener(server.url())
        broker._link.close()
        answer = b"+"
        while answer.startswith(b"+"):
            other = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            other.sendall(b"PING\r\n")
            answer = other.recv(64)
        assert b"max number of clients" in answer
        for call in (
            lambda: opener(server.url()),
            lambda: broker.declare(["photos"]),
            lambda: broker.claim(["photos"], 1),
            lambda: broker.publish(messages(1)),
        ):
            with pytest.raises((BrokerUnavailable, PublishUnknown)):
                call()
            assert broker._link._connection is None
        stack.close()
        until_it_works(lambda: broker.declare(["photos"]))


def test_a_connection_is_kept_alive_whoever_made_it(running: RedisServer, opener: Open) -> None:
    """What is between forgets a connection that is silent, and tells nobody."""
    broker = opener(running.url())
    broker.bell()
    client = Redis(port=running.port, socket_keepalive=False)
    ready_made = open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
    assert isinstance(ready_made, RedisBroker)
    for link in (broker._link, broker._bell._link, ready_made._link):
        assert link.socket().getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert link.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
    ready_made.close()
    client.close()


@pytest.mark.usefixtures("short")
def test_b11_to_close_takes_no_longer_than_one_call(own: RedisServer, opener: Open) -> None:
    """It asks the server twice, to give back what it was told of."""
    broker = opener(own.url())
    broker.bell()
    assert claim(broker) == []
    with stopped(own):
        assert took(broker.close) < 0.9, "two calls take 1.0"


def test_rule_25_a_restart_is_survived_with_all_that_was_stored(
    own: RedisServer, opener: Open
) -> None:
    """Its data, and the scripts that it has forgotten."""
    broker = opener(own.url())
    waiting, done, held = publish(broker, *messages(3))
    first, second, third = claim(broker, limit=3)
    settle(broker, second, Ack(b"1", 60_000))
    for end in (own.kill, own.stop):
        end()
        own.start()
        until_it_works(lambda: broker.inspector().queues())
        assert broker.results([done.id, held.id])[1] is None
        assert claim_all(broker) == []
    assert settle(broker, second, Ack()) == Gone()
    assert settle(broker, third, Ack()) == settle(broker, first, Ack()) == Applied()
    assert waiting.id == first.message.id


def test_b45_after_a_failover_the_new_primary_is_found(own: RedisServer, tmp_path: Path) -> None:
    """By the sentinels that a ready-made client asks; what was replicated is there."""
    watching = RedisServer(tmp_path, "--sentinel")
    (tmp_path / "sentinel.conf").write_text(
        f"sentinel monitor jobs 127.0.0.1 {own.port} 1\n"
        "sentinel down-after-milliseconds jobs 500\nsentinel failover-timeout jobs 3000\n"
    )
    with serving("--replicaof", "127.0.0.1", str(own.port)) as second:
        watching.start(str(tmp_path / "sentinel.conf"))
        try:
            sentinel = Sentinel([("127.0.0.1", watching.port)])
            until(lambda: sentinel.discover_slaves("jobs"), "the sentinel knows both")
            client = sentinel.master_for("jobs")
            broker = open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
            assert broker.url == "redis://jobs/0"
            broker.bell()
            (whole,) = publish(broker, message())
            with second.client() as replica:
                until(lambda: replica.exists("dibs:messages"), "it is replicated")
            own.kill()
            until_it_works(lambda: broker.inspector().queues())
            assert ids(claim(broker)) == [whole.id]
            broker.close()
            client.close()
        finally:
            watching.kill()
            own.start()


def test_rule_26_sentinels_that_say_nothing_hold_nobody_up() -> None:
    """However many there are, and however patient the client is that knows them."""
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        sentinel = Sentinel([one.getsockname() for one in silent], socket_timeout=60)
        client = stack.enter_context(sentinel.master_for("jobs"))
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no primary of 'jobs' is known"):
            open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
        assert time.monotonic() - began < CALL_LIMIT_SECONDS


def test_b45_no_password_of_a_sentinel_is_ever_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py before 7.4 shows the clients of the sentinels, with all that they were given."""

    def discover_master(self: Sentinel, service_name: str) -> NoReturn:
        shown = [repr(one.connection_pool.connection_kwargs) for one in self.sentinels]
        raise MasterNotFoundError(f"No master found for {service_name!r} : {shown}")

    monkeypatch.setattr(Sentinel, "discover_master", discover_master)
    secret = {"username": "watch", "password": "hunter2"}
    places = [("127.0.0.1", free_port()) for _ in range(2)]
    sentinel = Sentinel(places, sentinel_kwargs=secret)
    with sentinel.master_for("jobs", password="hunter3") as client:
        with pytest.raises(MasterNotFoundError, match="hunter2"):
            sentinel.discover_master("jobs")
        with pytest.raises(BrokerUnavailable) as caught:
            open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
    assert "hunter" not in "".join(traceback.format_exception(caught.value))
    known = "127.0.0.1:{}, 127.0.0.1:{}".format(*(port for _, port in places))
    assert f"redis://jobs/0: no primary of 'jobs' is known to the sentinels {known}" in str(
        caught.value
    )


def test_a_call_that_a_signal_cut_short_leaves_no_answer_to_the_next(running: RedisServer) -> None:
    """Wherever it comes: also between the parts of the greeting, of which none may be left out."""
    settings = {"port": running.port, "username": "default", "password": "any", "db": 3}
    address = Address("redis://here", Connection, settings)
    for interrupt in each_step("resp/link.py"):
        link = Link(address, "", SystemClock(), {}, Limit(5, SystemClock()))
        with interrupt:
            assert link.call("ECHO", "first") == b"first"
        assert link.call("ECHO", "second") == b"second"
        assert b" db=3 " in link.call("CLIENT", "INFO")
        link.close()


def test_a_server_that_forgot_the_scripts_is_told_them_again(
    running: RedisServer, opener: Open
) -> None:
    broker = opener(running.url())
    with running.client() as client:
        for _ in range(3):
            client.script_flush()
            assert broker.publish(messages(1)) == [Stored()]
    assert len(claim_all(broker)) == 3


def rung(broker: RedisBroker, seconds: float = 5) -> bool:
    return bool(select.select([broker.bell()], [], [], seconds)[0])


def test_b38_a_bell_whose_connection_dies_alone_is_hung_up_again(
    running: RedisServer, opener: Open
) -> None:
    """It asks for a look when that happens, and rings for what comes after."""
    broker, other = opener(running.url()), opener(running.url())
    descriptor = broker.bell()
    for _ in range(3):
        assert claim(broker, limit=9) == []
        assert not rung(broker, 0)
        with running.client() as client:
            client.client_kill_filter(_type="pubsub")
        assert rung(broker)
        assert claim(broker, limit=9) == []
        publish(other, message())
        assert rung(broker)
        assert len(claim(broker, limit=9)) == 1
    assert broker.bell() == descriptor


def test_a_bell_that_cannot_be_hung_up_is_trouble_and_no_silence(
    own: RedisServer, opener: Open
) -> None:
    broker = opener(own.url())
    broker.bell()
    assert claim(broker) == []
    own.stop()
    assert rung(broker)
    with pytest.raises(BrokerUnavailable):
        claim(broker)
    own.start()
    until_it_works(lambda: claim(broker))
    publish(broker, message())
    assert rung(broker)


def test_rule_32_full_memory_stops_what_is_new_and_nothing_else(
    own: RedisServer, opener: Open
) -> None:
    broker = opener(own.url())
    publish(broker, *messages(5))
    first, second = claim(broker, limit=2)
    with own.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(BrokerFull, match="OOM"):
            broker.publish(messages(1))
        broker.declare(["photos"])
        assert settle(broker, first, Ack(b"1", 1_000)) == Applied()
        (held,) = broker.extend([second])
        assert isinstance(held, Held)
        assert len(claim_all(broker)) == 3
        (counts,) = broker.inspector().queues()
        assert (counts.ready, counts.in_flight) == (0, 4)
        client.config_set("maxmemory", 0)
    publish(broker, message())


def test_b47_what_was_deleted_by_hand_is_in_nobodys_way(running: RedisServer, opener: Open) -> None:
    """redis 6199: entries whose bytes were trimmed stayed pending for ever."""
    broker = opener(f"{running.url()}?prefix=trimmed")
    first, gone, last = publish(broker, *messages(3))
    dead, dead_too = publish(broker, *messages(2, "dead"))
    for lease in claim(broker, "dead", limit=2):
        settle(broker, lease, OUTCOMES["dead letter"])
    with running.client() as client:
        client.hdel("trimmed:messages", gone.id, dead.id)
    inspector = broker.inspector()
    assert inspector.redrive([dead.id]) == [Gone()]
    assert inspector.discard([dead.id, dead_too.id]) == 2
    assert ids(claim(broker, limit=3)) == [first.id, last.id]
    assert {one.name: (one.ready, one.in_flight) for one in inspector.queues()} == {
        "dead": (0, 0),
        "photos": (0, 2),
    }


def test_a_key_that_is_not_ours_is_an_error_that_says_so(
    running: RedisServer, opener: Open
) -> None:
    broker = opener(f"{running.url()}?prefix=taken")
    with running.client() as client:
        client.set("taken:ready:photos", "what is this")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        claim(broker)


def test_b12_a_thousand_reconnects_leave_nothing_behind(running: RedisServer, opener: Open) -> None:
    broker = opener(running.url())
    broker.bell()

    def once() -> None:
        client.client_kill_filter(skipme=True)
        until_it_works(lambda: claim(broker))

    with running.client() as client:
        leaves_nothing(once)
