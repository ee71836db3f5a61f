"""What a server is set to, who may use it, and how it is named."""

import os
import re
import select
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.credentials import CredentialProvider
from redis.exceptions import DataError

from dibs.brokers.contract import Broker
from dibs.brokers.redis import RedisBroker, open_redis, open_url
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.errors import BrokerRefused, BrokerUnavailable, OptionError, UrlError
from dibs.message import Ack, Nack
from dibs.testing.making import (
    ERROR,
    OUTCOMES,
    claim,
    claim_one,
    message,
    messages,
    publish,
    settle,
)
from dibs.wires.resp import bell
from tests.servers.certificate import Certificate, make_certificate
from tests.servers.missing import not_installed
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer, program, serving
from tests.unit.redis.conftest import Open

DOCS = Path(__file__).parents[3] / "docs/redis.md"
PASSWORD = "hun@ter/2%"
QUOTED = "hun%40ter%2F2%25"


@pytest.mark.parametrize(
    ("settings", "level", "word"),
    [
        (("--appendfsync", "always"), "D2", "always"),
        (("--appendfsync", "everysec"), "D1", "everysec"),
        (("--appendfsync", "no"), "D1", "appendfsync=no"),
        (("--appendonly", "no"), "D0", "no append-only file"),
    ],
)
def test_the_level_of_durability_is_what_the_server_is_set_to(
    opener: Open, settings: tuple[str, ...], level: str, word: str
) -> None:
    if program() is None:
        not_installed("Redis", "redis-server")
    with serving(*settings) as server:
        capabilities = opener(server.url()).capabilities
    assert capabilities.durability == level
    assert word in capabilities.durability_note


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl"])
def test_b48_a_server_that_evicts_is_refused_and_says_how_to_mend_it(
    own: RedisServer, opener: Open, policy: str
) -> None:
    with own.client() as client:
        client.config_set("maxmemory-policy", policy)
    broker = opener(own.url())
    with pytest.raises(BrokerRefused, match=f"{policy}.*CONFIG SET maxmemory-policy noeviction"):
        broker.declare(["photos"])
    bad = [one for one in broker.inspector().findings() if one.verdict == "bad"]
    assert [one.what for one in bad] == ["maxmemory-policy"]


def test_a_cluster_and_a_replica_are_refused(own: RedisServer, opener: Open) -> None:
    clustered = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    refused = pytest.raises(BrokerRefused, match="without cluster mode")
    with serving(*clustered, "--appendonly", "no") as cluster, refused:
        opener(cluster.url())
    with serving("--replicaof", "127.0.0.1", str(own.port)) as replica:
        broker = opener(replica.url())
        with pytest.raises(BrokerRefused, match="primary"):
            broker.declare(["photos"])
        with pytest.raises(BrokerUnavailable, match="READONLY"):
            broker.publish(messages(1))


def test_what_is_found_of_a_server_that_is_set_well_is_good(own: RedisServer, opener: Open) -> None:
    with own.client() as client:
        client.config_set("appendfsync", "always")
    broker = opener(own.url())
    broker.declare(["photos"])
    found = {one.what: one.verdict for one in broker.inspector().findings()}
    assert found.pop("password") == "note", "nobody has to know one"
    assert set(found.values()) == {"good"}


@pytest.fixture
def guarded(own: RedisServer) -> Iterator[RedisServer]:
    """A server that asks for a password, and has the user of docs/redis.md."""
    with own.client() as client:
        (rule,) = re.findall(r"^ACL SETUSER .*", DOCS.read_text(), re.MULTILINE)
        client.execute_command(*rule.replace("secret", PASSWORD).split())
        client.config_set("requirepass", PASSWORD)
    return own


def test_no_password_is_ever_shown(guarded: RedisServer) -> None:
    where = f"127.0.0.1:{guarded.port}"
    good = open_url(f"redis://:{QUOTED}@{where}", clock=SystemClock(), worker_id=b"1")
    assert good.url == f"redis://{where}/0"
    good.close()
    for user in (":wrong-hunter", "nobody:wrong-hunter", ""):
        at = f"{user}@" if user else ""
        with pytest.raises(BrokerUnavailable) as caught:
            open_url(f"redis://{at}{where}", clock=SystemClock(), worker_id=b"1")
        shown = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
        assert "hunter" not in shown
        assert where in shown


def test_a_user_with_the_rights_of_the_docs_can_do_everything(guarded: RedisServer) -> None:
    """How often the server syncs it may not ask: that is said."""
    url = f"redis://worker:{QUOTED}@127.0.0.1:{guarded.port}/0?prefix=dibs"
    broker = open_broker(url, clock=SystemClock(), worker_id=os.urandom(16))
    assert "does not say" in broker.capabilities.durability_note
    broker.bell()
    broker.declare(["photos"])
    publish(broker, *messages(4), message(unique_key="k"))
    dead, failed, done, kept, _ = claim(broker, limit=5)
    settle(broker, dead, OUTCOMES["dead letter"])
    settle(broker, failed, Nack(0, ERROR))
    settle(broker, done, Ack())
    settle(broker, kept, Ack(b"1", 1_000))
    broker.results([kept.message.id, failed.message.id])
    inspector = broker.inspector()
    inspector.pause("photos")
    inspector.resume("photos")
    inspector.redrive([dead.message.id])
    assert inspector.purge("photos") == 2
    assert [one.in_flight for one in inspector.queues()] == [1]
    assert {one.verdict for one in inspector.findings()} == {"good", "note"}
    broker.close()


def test_a_user_without_a_right_is_refused_and_not_waited_for(guarded: RedisServer) -> None:
    """No worker gets a right by trying again."""
    url = f"redis://worker:{QUOTED}@127.0.0.1:{guarded.port}/0?prefix=another"
    with pytest.raises(BrokerRefused, match=r"NOPERM.*give it the rights"):
        open_broker(url, clock=SystemClock(), worker_id=os.urandom(16)).declare(["photos"])


def test_a_user_without_its_channel_is_refused_before_the_first_claim(own: RedisServer) -> None:
    """Whose claims would all be refused, for ever."""
    with own.client() as client:
        client.execute_command("ACL SETUSER", "deaf", "on", "nopass", "~dibs:*", "+@all")
    url = f"redis://deaf:any@127.0.0.1:{own.port}/0?prefix=dibs"
    with closing(open_broker(url, clock=SystemClock(), worker_id=os.urandom(16))) as broker:
        broker.declare(["photos"])
        with pytest.raises(BrokerRefused, match=r"NOPERM.*give it the rights"):
            broker.bell()


class Provider(CredentialProvider):
    """What a caller brings to have passwords from elsewhere; as good as `fault` says."""

    def __init__(self) -> None:
        self.fault: Exception | None = None

    def get_credentials(self) -> tuple[str, str]:
        if self.fault is not None:
            raise self.fault
        return "default", PASSWORD


@pytest.mark.parametrize("fault", [ValueError("hunter2"), OSError("hunter2"), DataError("hunter2")])
def test_a_credential_provider_that_fails_is_trouble_and_its_words_are_not_shown(
    guarded: RedisServer, fault: Exception
) -> None:
    provider = Provider()
    client = Redis(port=guarded.port, credential_provider=provider)
    broker = open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
    assert isinstance(broker, RedisBroker)
    provider.fault = fault
    for call in (
        lambda: open_redis(client, clock=SystemClock(), worker_id=b"1"),
        lambda: broker.claim(["photos"], 1),
        lambda: broker.publish(messages(1)),
        lambda: broker.declare(["photos"]),
    ):
        broker._link.close()
        with pytest.raises(BrokerUnavailable, match=f"raised {type(fault).__name__}") as caught:
            call()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    provider.fault = None
    publish(broker, message())
    broker.close()
    client.close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://h/x", "number of the database"),
        ("redis://h:99999", "write redis://"),
        ("redis://h?prefx=a", "did you mean `prefix`"),
        ("rediss://u:hunter2@h/0?ssl_cert_reqs=none", "no option `ssl_cert_reqs`"),
        ("redis://u:hunter2@h:port", "write redis://"),
        ("redis://:12?hunter2@h/0", "with %23, %2F, %3F"),
        ("redis://:12#hunter2@h/0", "with %23, %2F, %3F"),
        ("redis://:12/hunter2@h/0", "with %23, %2F, %3F"),
    ],
)
def test_a_url_that_cannot_be_read_is_shown_without_its_secrets(url: str, word: str) -> None:
    with pytest.raises(UrlError) as caught:
        open_broker(url, clock=SystemClock(), worker_id=b"1")
    assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert ":12" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "a b", "a*", "é", "x" * 101])
def test_a_prefix_that_cannot_be_one_is_refused(running: RedisServer, prefix: str) -> None:
    client = running.client()
    with pytest.raises(OptionError, match="prefix"):
        open_redis(client, clock=SystemClock(), worker_id=b"1", prefix=prefix)


def test_any_number_of_queues_is_declared_and_claimed_from(
    running: RedisServer, opener: Open
) -> None:
    """Lua unpacks 8,000 at most."""
    broker = opener(running.url())
    broker.bell()
    names = [f"q{number}" for number in range(8_001)]
    broker.declare(names)
    assert broker.claim(names, 1).leases == []
    assert {one.name for one in broker.inspector().queues()} == set(names)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_namespaces_and_databases_are_apart(running: RedisServer, scheme: str) -> None:
    at = f"{scheme}://localhost:{running.port}"
    urls = [
        f"{at}/{number}?prefix={prefix}"
        for number in (0, 1)
        for prefix in (f"{scheme}1", f"{scheme}2")
    ]
    brokers = [open_broker(url, clock=SystemClock(), worker_id=b"1") for url in urls]
    publish(brokers[0], message())
    assert [len(claim(broker)) for broker in brokers[::-1]] == [0, 0, 0, 1]
    assert [broker.created for broker in brokers] == [True] * 4
    assert not open_broker(urls[0], clock=SystemClock(), worker_id=b"1").created
    for broker in brokers:
        broker.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_ready_made_client_is_used_for_its_address_alone(
    running: RedisServer, protocol: int
) -> None:
    """However it decodes, retries or waits."""
    client = Redis(
        port=running.port,
        db=3,
        protocol=protocol,
        decode_responses=True,
        socket_timeout=0.001,
        health_check_interval=1,
    )
    broker = open_redis(client, clock=SystemClock(), worker_id=b"1", prefix=f"own{protocol}")
    assert broker.url == f"redis://localhost:{running.port}/3"
    (whole,) = publish(broker, message(args=b"\xff\x00"))
    assert claim_one(broker).message == whole
    broker.close()
    client.close()


def connection_of(broker: Broker) -> str:
    (found,) = [one for one in broker.inspector().findings() if one.what == "connection"]
    assert found.verdict == "good", "it does not leave this machine"
    return found.found


def test_doctor_says_that_a_connection_is_not_encrypted(tmp_path: Path, opener: Open) -> None:
    """Over a network and through a socket in the file system."""
    with serving("--unixsocket", str(tmp_path / "socket")) as server:
        assert connection_of(opener(server.url())) == "not encrypted"
        client = Redis(unix_socket_path=str(tmp_path / "socket"))
        broker = open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
        assert connection_of(broker) == "not encrypted"
        broker.close()


@contextmanager
def encrypted(made: Certificate) -> Iterator[int]:
    """A server's port at which it speaks TLS."""
    with serving() as server:
        port = free_port()
        with server.client() as client:
            for name, value in (("cert", made.path), ("key", made.key), ("ca-cert", made.path)):
                client.config_set(f"tls-{name}-file", str(value))
            client.config_set("tls-auth-clients", "no")
            client.config_set("tls-port", port)
        yield port


def test_what_is_handed_over_comes_by_tls_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several records of it, and beside the answers of a bell that is asked after a silence."""
    made = make_certificate(tmp_path)
    monkeypatch.setattr(bell, "QUIET_SECONDS", 0)
    with encrypted(made) as port:
        client = Redis(port=port, ssl=True, ssl_ca_certs=str(made.path))
        broker = open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
        descriptor = broker.bell()
        for length in (10, 60_000):
            assert claim(broker, limit=2) == []
            broker.idle()
            (whole,) = publish(broker, message(args=b'"%s"' % (b"x" * length)))
            assert select.select([descriptor], [], [], 5)[0]
            lease = claim_one(broker)
            assert (lease.message, lease.fence) == (whole, 1), "it came with the ring"
        broker.close()
        client.close()


def test_tls_is_verified(tmp_path: Path) -> None:
    """The certificate must be one that the machine trusts, and name the host."""
    made = make_certificate(tmp_path)
    with encrypted(made) as port:
        with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            open_url(f"rediss://localhost:{port}", clock=SystemClock(), worker_id=b"1")
        for host in ("localhost", "127.0.0.1"):
            client = Redis(host=host, port=port, ssl=True, ssl_ca_certs=str(made.path))
            if host == "127.0.0.1":
                with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
                    open_redis(client, clock=SystemClock(), worker_id=b"1")
                continue
            broker = open_redis(client, clock=SystemClock(), worker_id=os.urandom(16))
            assert connection_of(broker) == "TLS, the server verified"
            descriptor = broker.bell()
            assert claim(broker) == []
            publish(broker, message())
            assert descriptor == broker.bell()
            assert len(claim(broker)) == 1
            broker.close()
