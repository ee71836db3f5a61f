"""Behind a real PgBouncer in transaction mode, with fewer connections than there are brokers."""

import os
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import psycopg
import pytest

from dibs.brokers.contract import Applied, Broker, Held, Stale, Stored
from dibs.brokers.postgres import open_postgres
from dibs.clock import SystemClock
from dibs.errors import BrokerRefused
from dibs.message import Ack, Nack
from dibs.testing.making import ERROR, claim, ids, messages, publish, settle
from tests.servers.missing import not_installed
from tests.servers.pgbouncer import POOLED, pooling, program
from tests.servers.postgres import Server
from tests.unit.postgres.conftest import Open
from tests.unit.postgres.test_workers import Studio, do_everything

_numbers = count()


@pytest.fixture(scope="module")
def pooler(server: Server) -> Iterator[str]:
    """The way to the server, through the pooler."""
    with pooling(needed(), server) as url:
        yield url


def needed() -> str:
    """The program, without which these tests are not run."""
    found = program()
    if found is None:
        not_installed("PgBouncer", "pgbouncer")
    return found


@pytest.fixture
def url(pooler: str) -> str:
    """The address of queues that are not there yet."""
    return f"{pooler}&schema=pooled_{next(_numbers)}&listen=no"


def test_a_pooler_that_takes_no_settings_is_said_with_the_way_out(url: str, opened: Open) -> None:
    with pytest.raises(BrokerRefused, match="add listen=no to the URL"):
        opened(at=url.removesuffix("&listen=no"))


def test_a_pooler_that_passes_settings_over_is_said_with_the_way_out(
    server: Server, opened: Open
) -> None:
    """Else each job would wait for the ring of a connection that hears nothing."""
    passed_over = "ignore_startup_parameters = options"
    with (
        pooling(needed(), server, passed_over) as url,
        pytest.raises(BrokerRefused, match=r"no effect.*add listen=no to the URL"),
    ):
        opened(at=url)


def test_a_pooler_that_mixes_up_what_is_prepared_is_said_with_the_way_out(url: str) -> None:
    """Behind connections of one's own making, of which nobody knows how they are set."""
    plain, _, schema = url.removesuffix("&listen=no").partition("&schema=")

    def another() -> Broker:
        return open_postgres(
            lambda _: psycopg.connect(plain),
            clock=SystemClock(),
            worker_id=os.urandom(16),
            schema=schema,
        )

    with closing(another()), pytest.raises(BrokerRefused, match=r"42P05.*add listen=no to the URL"):
        another()


def test_making_the_schema_leaves_nothing_on_a_connection_of_the_poolers(
    url: str, opened: Open, server: Server
) -> None:
    """Neither the lock nor its time limit: the next whom the pooler gives it to would have them."""
    assert opened().created
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute(held).fetchone() == (0,)
    with psycopg.connect(url.partition("&schema=")[0]) as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_every_verb_answers_and_none_holds_a_connection_of_the_poolers(opened: Open) -> None:
    brokers = [opened() for _ in range(2 * POOLED)]
    for broker in brokers:
        broker.declare(["photos"])
        publish(broker, *messages(2))
    held = [claim(broker, limit=2) for broker in brokers]
    assert len({id for leases in held for id in ids(leases)}) == 4 * POOLED
    for broker, (done, failed) in zip(brokers, held, strict=True):
        assert all(isinstance(answer, Held) for answer in broker.extend([done, failed]))
        assert settle(broker, done, Ack(b"1", 60_000)) == Applied()
        assert settle(broker, failed, Nack(0, ERROR)) == Applied()
        assert settle(broker, failed, Ack()) == Stale()
    results = brokers[0].results([done.message.id for done, _ in held])
    assert [result.value for result in results if result] == [b"1"] * len(brokers)
    again = [lease for broker in brokers for lease in claim(broker, limit=1)]
    assert [lease.failures for lease in again] == [1] * len(brokers)
    assert brokers[0].publish(messages(1)) == [Stored()]


def test_a_worker_does_what_it_does_on_any_broker(tmp_path: Path, url: str, opened: Open) -> None:
    studio = Studio(tmp_path, url)
    with closing(studio.app):
        do_everything(studio, opened)
