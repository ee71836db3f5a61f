"""Connections that are slow to make, cannot be made, or are dead without a sign.

None of it may cost a job its time, least of all what befalls the bell alone. The server is reached
through proxies, one for each of the two connections.
"""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from select import select

import psycopg
import pytest
from psycopg import Connection

from dibs.brokers.contract import APPLIED, Broker, Claim
from dibs.brokers.postgres import PostgresBroker, open_postgres
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.message import Ack
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import claim, claim_one, ids, message, messages, publish, settle
from dibs.testing.proxy import Faults, Proxy
from dibs.wires.libpq.dial import address, dial
from tests.servers.ports import free_port
from tests.servers.postgres import serving
from tests.unit.postgres.conftest import Open
from tests.worker.workers import until

Sql = psycopg.Connection
_numbers = count()


@pytest.fixture(scope="module")
def port(binaries: Path) -> Iterator[int]:
    """Where a server of this file's own listens."""
    port = free_port()
    with serving(binaries, "listen_addresses=127.0.0.1", f"port={port}"):
        yield port


@pytest.fixture
def url(port: int) -> str:
    """The address of queues that are not there yet."""
    return (
        f"postgresql://dibs@127.0.0.1:{port}/postgres?sslmode=disable&schema=slow_{next(_numbers)}"
    )


class Ways:
    """Two ways to the same queues: `main` for the calls, `bell` for the bell."""

    def __init__(self, url: str, port: int, main: Proxy, bell: Proxy) -> None:
        self.main, self.bell = main, bell
        urls = [url.replace(f":{port}/", f":{proxy.port}/") for proxy in (main, bell)]
        self._to = [address(each) for each in urls]
        self.dialled = [0, 0]
        self._at = 0

    def open(self, seconds: float = 5) -> PostgresBroker:
        """Open the queues, with so many seconds for a call."""
        schema, clock = self._to[0].schema, SystemClock()
        broker = open_postgres(self._dial, clock=clock, worker_id=os.urandom(16), schema=schema)
        assert isinstance(broker, PostgresBroker)
        broker._session.limit.hurry(seconds)
        self._at = 1
        return broker

    def _dial(self, seconds: float) -> Connection:
        self.dialled[self._at] += 1
        return dial(self._to[self._at].parameters, SystemClock(), seconds)

    def redial(self, broker: PostgresBroker) -> None:
        """Lose the main connection: the next that is made takes its place."""
        self._at = 0
        broker._session.close()


@pytest.fixture
def ways(url: str, port: int, opened: Open) -> Iterator[Ways]:
    """Ways to queues that are there."""
    opened()
    with Proxy("127.0.0.1", port) as main, Proxy("127.0.0.1", port) as bell:
        yield Ways(url, port, main, bell)


def leased(sql: Sql) -> int:
    row = sql.execute("SELECT count(*) FROM lease").fetchone()
    assert row is not None
    return int(row[0])


def test_rule_26_a_bell_that_cannot_be_made_leaves_its_claim_the_time_to_be_answered(
    ways: Ways, sql: Sql
) -> None:
    """Else the server leases jobs to nobody. It is made when it can be, and not tried each time."""
    ways.bell.suffer(Faults(connects="accepted"))
    broker = ways.open(1)
    mine = publish(broker, *messages(3))
    broker.bell()
    assert ids(claim(broker)) == [mine[0].id]
    assert ways.dialled == [1, 1]
    assert ids(claim(broker)) == [mine[1].id]
    assert ways.dialled == [1, 1]
    until(lambda: claim(broker, "other") == [] and ways.dialled == [1, 2], "it is tried again")
    assert leased(sql) == 2
    ways.bell.heal()
    until(lambda: claim(broker, "other") == [] and bool(broker._bell.armed), "it is made")
    publish(broker, message("other"))
    assert rung(broker) == [broker]
    broker.close()


def test_rule_26_a_call_that_has_no_time_left_is_not_sent(ways: Ways) -> None:
    """It would take effect, and nobody would hear of it; its connection is as good as ever."""
    broker = ways.open()
    (mine,) = publish(broker, message())
    broker._session.limit.seconds = 0
    with pytest.raises(BrokerUnavailable, match="nothing was sent"):
        claim(broker)
    broker._session.limit.seconds = 5
    lease = claim_one(broker)
    assert (lease.message.id, lease.fence, ways.dialled) == (mine.id, 1, [1, 0])
    broker.close()


def test_rule_26_to_connect_may_take_longer_than_a_call_for_a_short_lease(ways: Ways) -> None:
    """Over TLS, or from far away; else whoever has had such a lease would never connect again."""
    broker = ways.open(0.25)
    publish(broker, message())
    lease = claim_one(broker)
    ways.main.suffer(Faults(latency_seconds=0.09))  # two ways there and back make more than 0.25
    ways.redial(broker)
    with pytest.raises(BrokerUnavailable, match="nothing was sent"):
        settle(broker, lease, Ack())
    assert settle(broker, lease, Ack()) == APPLIED
    assert ways.dialled == [2, 0]
    broker.close()


def idle(broker: PostgresBroker) -> PostgresBroker:
    """Have it wait: it may be handed a message now."""
    broker.bell()
    assert claim(broker, limit=10) == []
    assert broker._bell.is_idle
    return broker


def assert_listens(broker: PostgresBroker, publisher: Broker) -> None:
    """It finds nothing, and is rung for what comes then."""
    assert claim(broker, limit=10) == []
    (mine,) = publish(publisher, message())
    assert rung(broker) == [broker]
    assert ids(claim(broker, limit=10)) == [mine.id]


def test_a_bell_that_is_dead_without_a_sign_costs_one_message_a_delay(
    opened: Open, ways: Ways, sql: Sql
) -> None:
    """It is asked when a note does not come, and made anew if it does not answer."""
    publisher, broker = opened(), idle(ways.open(1))
    ways.bell.vanish()
    publish(publisher, message())
    assert leased(sql) == 1
    assert broker.claim(["photos"], 10) == Claim([], 0)
    assert_listens(broker, publisher)
    broker.close()


def test_a_bell_that_is_cut_before_it_is_asked_listens_again(
    opened: Open, ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked in its place, on a connection that listens to nothing."""
    publisher, broker = opened(), idle(ways.open())
    session = broker._bell._session
    assert session is not None
    ways.bell.suffer(Faults(stalled=True))
    publish(publisher, message())
    with monkeypatch.context() as patch:
        answers = session.answers

        def cut_first() -> bool:
            at = session.socket()
            ways.bell.reset()
            ways.bell.heal()
            assert select([at], [], [], 10)[0]
            return answers()

        patch.setattr(session, "answers", cut_first)
        assert broker.claim(["photos"], 10) == Claim([], 0)
    assert_listens(broker, publisher)
    broker.close()


def test_a_note_that_is_slow_is_heard_though_the_bell_is_asked_for_it(
    opened: Open, ways: Ways
) -> None:
    """It comes before the answer, and the bell is kept."""
    publisher, broker = opened(), idle(ways.open())
    ways.bell.suffer(Faults(latency_seconds=0.3))
    (mine,) = publish(publisher, message())
    assert ids(claim(broker, limit=10)) == [mine.id]
    assert ways.dialled[1] == 1
    broker.close()
