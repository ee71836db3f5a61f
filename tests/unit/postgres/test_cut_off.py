"""A client whose machine is gone in the middle of a call: its transaction stays open at the server.

What it had sent is run, and the rest never comes. The server ends it when the network tells that
nobody is there; until then it must be in nobody's way.
"""

import os
import time
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest

from dibs.alike import runs_of
from dibs.brokers.contract import Applied, Broker, Claim, Held, Unknown
from dibs.brokers.postgres import PostgresBroker, open_url
from dibs.brokers.postgres.broker import _end, _publish_calls
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable
from dibs.message import Ack, Settlement
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import claim, claim_all, ids, message, messages, publish, settle
from dibs.wires.libpq.arrays import INT8, TEXT, array_of
from dibs.wires.libpq.session import Call
from tests.servers.ports import free_port
from tests.servers.postgres import serving, stop_the_clock
from tests.unit.postgres.conftest import Open
from tests.worker.workers import until

Sql = psycopg.Connection
CLAIM: Call = ("claim", array_of(TEXT, ["photos"]), array_of(INT8, [-1]), 1, None, False)


def cut_off(broker: Broker, sql: Sql, *calls: Call) -> Any:
    """Have calls arrive at the server, and nothing after them; return the connection."""
    assert isinstance(broker, PostgresBroker)
    connection = broker._session._opened()
    for call in calls:
        broker._session._send(connection, call)
    while connection.flush():
        pass
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE pid = %s AND state = 'active' AND wait_event = 'ClientRead'"
    )
    until(
        lambda: sql.execute(waits, (connection.backend_pid,)).fetchone() == (1,),
        "the server waits for the rest",
    )
    return connection


def waiting(broker: Broker) -> PostgresBroker:
    """Have a broker wait that has found nothing."""
    assert isinstance(broker, PostgresBroker)
    broker.bell()
    assert claim(broker, limit=10) == []
    assert broker._bell.is_idle
    return broker


def test_rule_23_the_leases_of_others_come_back_though_whoever_swept_was_cut_off(
    opened: Open, sql: Sql
) -> None:
    """It has the row of those who sweep; all others do without it, and not a thousand a second."""
    broker = opened()
    published = publish(broker, *messages(3))
    held = claim(broker, limit=2)
    sql.execute("UPDATE lease SET expiry_ms = now_ms() + 300; UPDATE upkeep SET next_ms = 0")
    cut_off(opened(), sql, CLAIM)
    granted: list[Claim] = []
    until(
        lambda: granted.append(broker.claim(["photos"], 5)) or bool(granted[-1].leases),
        "they come back",
    )
    assert ids(granted[-1].leases) == ids(held) == ids(published[:2])
    assert (broker.claim(["photos"], 5).next_in or 0) > 0.5


def test_what_is_due_and_another_moves_is_looked_for_less_and_less_often(
    opened: Open, sql: Sql, url: str
) -> None:
    """Its commit may never come; what falls due meanwhile, and a backlog, is moved in time."""
    broker, schema, due_ms = opened(), url.partition("&schema=")[2], 1_800_000_000_000
    stop_the_clock(sql, schema, due_ms - 1)
    publish(broker, message(due_ms=due_ms))
    sql.execute("UPDATE test_time SET ms = ms + 1")
    with psycopg.connect(url.partition("&schema=")[0]) as other:
        other.execute(f"SET search_path = {schema}".encode())
        other.execute("SELECT tidy(now_ms())")
        for after_ms, seconds in ((0, 0.001), (30, 0.03), (300, 0.3), (5_000, 1.0)):
            sql.execute("UPDATE test_time SET ms = %s", (due_ms + after_ms,))
            assert broker.claim(["mails"], 5).next_in == seconds
        for later_ms in (5_020, 5_030):
            publish(broker, message(due_ms=due_ms + later_ms))
        assert broker.claim(["mails"], 5).next_in == 0.02
        sql.execute("UPDATE test_time SET ms = ms + 9000")
        sql.execute(
            "INSERT INTO scheduled SELECT %s, -n, gen_random_uuid(), 1, 9"
            " FROM generate_series(1, 5003) n",
            (due_ms,),
        )
        assert broker.claim(["mails"], 5).next_in == 0.001


def test_a_claim_waits_for_nobody_who_holds_the_row_of_a_dead_waiter(
    opened: Open, sql: Sql, url: str
) -> None:
    """Its last sweep forgets what it can of him, and a later one the rest."""
    broker, dead = opened(), waiting(opened())
    mine = publish(broker, *messages(2))
    dead.results(ids(mine))
    assert dead._bell._session is not None
    dead._bell._session.close()
    alone = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    until(lambda: sql.execute(alone).fetchone() == (0,), "the server knows")
    rows = "SELECT (SELECT count(*) FROM waiter), (SELECT count(*) FROM awaited)"
    with psycopg.connect(url.partition("&schema=")[0]) as other:
        other.execute(f"SELECT FROM {url.partition('&schema=')[2]}.waiter FOR UPDATE".encode())
        sql.execute("UPDATE upkeep SET next_ms = 0")
        assert ids(claim(broker, limit=3)) == ids(mine)
        assert sql.execute("SELECT count(*) FROM idle").fetchone() == (0,)
        assert sql.execute(rows).fetchone() == (1, 2)
    sql.execute("UPDATE upkeep SET next_ms = 0")
    assert claim(broker) == []
    assert sql.execute(rows).fetchone() == (0, 0)


def test_results_whose_time_is_over_are_pruned_as_fast_as_workers_claim(
    opened: Open, sql: Sql, url: str
) -> None:
    """Not one page a second for all of them; where no page is full, once a second is enough."""
    broker = opened()
    stop_the_clock(sql, url.partition("&schema=")[2], 1_800_000_000_000)
    sql.execute("INSERT INTO result SELECT gen_random_uuid(), 0 FROM generate_series(1, 10001)")
    left = []
    for _ in range(3):
        assert claim(broker) == []
        left.append(sql.execute("SELECT count(*) FROM result").fetchone())
    assert left == [(5_001,), (1,), (0,)]
    sql.execute("INSERT INTO result SELECT gen_random_uuid(), 0")
    assert claim(broker) == []
    assert sql.execute("SELECT count(*) FROM result").fetchone() == (1,)


def test_rule_25_a_waiter_goes_on_though_whoever_hands_it_something_was_cut_off(
    opened: Open, sql: Sql
) -> None:
    """It is granted what there is, and is handed things again when that is over."""
    publisher, waiter = opened(), waiting(opened())
    publisher.declare(["photos"])
    dead = cut_off(opened(), sql, *_publish_calls(runs_of([message()]), True))
    assert claim(waiter, limit=10) == []
    mine = publish(publisher, message())
    assert ids(claim(waiter, limit=10)) == ids(mine)
    sql.execute("SELECT pg_terminate_backend(%s)", (dead.backend_pid,))
    assert claim(waiter, limit=10) == []
    mine = publish(publisher, message())
    assert sql.execute("SELECT count(*) FROM lease").fetchone() == (2,)
    assert rung(waiter) == [waiter]
    assert ids(claim(waiter, limit=10)) == ids(mine)


def test_a_full_claim_that_could_not_take_its_wish_back_asks_to_be_called_again(
    opened: Open, sql: Sql
) -> None:
    """Whoever held it has committed after all: what he handed over goes back then."""
    publisher, waiter = opened(), waiting(opened())
    publisher.declare(["photos"])
    dead = cut_off(opened(), sql, *_publish_calls(runs_of([message()]), True))
    publish(publisher, message())
    assert waiter.claim(["photos"], 1).still_asks
    assert waiter.claim(["photos"], 0).still_asks
    dead.pipeline_sync()
    until(
        lambda: sql.execute("SELECT count(*) FROM lease").fetchone() == (2,),
        "it has handed that over",
    )
    assert not waiter.claim(["photos"], 0).still_asks
    assert [lease.lost for lease in claim_all(publisher)] == [0]


def test_a_waiter_goes_on_though_whoever_rings_it_was_cut_off(opened: Open, sql: Sql) -> None:
    """Also for other queues than those that it was to be rung for."""
    publisher, waiter = opened(), waiting(opened())
    cut_off(opened(), sql, ("ring", array_of(TEXT, ["photos"]), None))
    mine = publish(publisher, message("mails"))
    started = time.monotonic()
    assert ids(waiter.claim(["photos", "mails"], 1).leases) == ids(mine)
    assert claim(waiter, "photos", "mails", limit=2) == []
    assert time.monotonic() - started < 1.5, "it waited for no lock"


def test_rule_13_the_other_leases_are_renewed_though_one_is_locked(opened: Open, sql: Sql) -> None:
    """By an acknowledgement that was cut off: of that one nobody knows."""
    broker = opened()
    publish(broker, *messages(3))
    leases = claim(broker, limit=3)
    dead = cut_off(opened(), sql, _end([Settlement(leases[1], Ack())]))
    assert broker.extend(leases) == [Held(30.0), Unknown(), Held(30.0)]
    sql.execute("SELECT pg_terminate_backend(%s)", (dead.backend_pid,))
    assert settle(broker, leases[1], Ack()) == Applied()


def test_rule_13_leases_that_ran_out_are_renewed_though_one_is_being_granted(
    opened: Open, sql: Sql
) -> None:
    """By a claim that was cut off."""
    broker = opened()
    publish(broker, *messages(3))
    leases = claim(broker, limit=3)
    sql.execute("UPDATE lease SET expiry_ms = 0; UPDATE upkeep SET next_ms = 0")
    sql.execute("SELECT tidy(now_ms())")
    cut_off(opened(), sql, CLAIM)
    assert broker.extend(leases) == [Unknown(), Held(30.0), Held(30.0)]


@pytest.mark.parametrize("where", ["lease", "ready"])
def test_rule_13_the_other_leases_are_renewed_though_hundreds_are_locked(
    opened: Open, sql: Sql, where: str
) -> None:
    """They are not waited for one by one, whether they ran out or not."""
    broker = opened()
    publish(broker, *messages(1_000))
    leases = broker.claim(["photos"], 1_000).leases
    if where == "ready":
        sql.execute("UPDATE lease SET expiry_ms = 0; UPDATE upkeep SET next_ms = 0")
        sql.execute("SELECT tidy(now_ms())")
    with sql.transaction():
        sql.execute(f"SELECT FROM {where} ORDER BY seq LIMIT 800 FOR UPDATE".encode())
        started = time.monotonic()
        assert broker.extend(leases) == [Unknown()] * 800 + [Held(30.0)] * 200
        assert time.monotonic() - started < 2


def test_rule_04_what_was_answered_before_its_commit_is_not_granted(opened: Open, sql: Sql) -> None:
    """It leaves the server with a warning, and no commit may follow."""
    broker = opened()
    assert isinstance(broker, PostgresBroker)
    publish(broker, message())
    slow = "BEGIN RAISE WARNING 'slow'; PERFORM pg_sleep(2); RETURN NULL; END"
    sql.execute(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ {slow} $$")
    sql.execute(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON lease DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    broker._session.limit.hurry(0.5)
    with pytest.raises(BrokerUnavailable, match="no answer within"):
        claim(broker)


def test_a_claim_needs_no_room_for_notifications(opened: Open, sql: Sql) -> None:
    """Where the server has none, nobody is rung; the transaction of a claim must not end by it."""
    first, second = waiting(opened()), waiting(opened())
    full = "BEGIN RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000'; END"
    sql.execute(
        "CREATE OR REPLACE FUNCTION ring_one(name text) RETURNS boolean"
        f" LANGUAGE plpgsql AS $$ {full} $$"
    )
    publish(opened(), *messages(4))
    assert len(claim(first, limit=2)) == 2
    assert second.claim(["photos"], 0).leases == []
    assert len(claim(first, limit=2)) == 2


def test_b38_a_bell_that_is_cut_as_it_is_hung_up_is_hung_up_again(
    opened: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be heard on a new connection, which listens to nothing."""
    broker, waiter = opened(), opened()
    assert isinstance(waiter, PostgresBroker)
    session = waiter._bell._session
    assert session is not None
    listen = session.execute

    def cut(*statements: str) -> Any:
        found = listen(*statements)
        assert session._held is not None
        pid = session._held.pgconn.backend_pid
        sql.execute("SELECT pg_terminate_backend(%s)", (pid,))
        until(lambda: not Path(f"/proc/{pid}").exists(), "the connection is lost")
        return found

    waiter.bell()
    with monkeypatch.context() as patch:
        patch.setattr(session, "execute", cut)
        assert claim(waiter, limit=2) == []
    until(lambda: claim(waiter, limit=2) == [] and waiter._bell.is_idle, "it is tried again")
    publish(broker, message())
    assert rung(waiter) == [waiter]
    assert len(claim(waiter, limit=2)) == 1


def test_whoever_asks_whether_another_is_dead_is_taken_for_nobody_alive(
    opened: Open, url: str
) -> None:
    """Two who ask at the same moment both learn it."""
    opened()
    plain, _, schema = url.partition("&schema=")
    asked = "SELECT count(*) FROM generate_series(1, 30000) WHERE NOT is_dead('nobody')"
    answers: list[Any] = []
    together = Barrier(3)

    def ask() -> None:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"SET search_path = {schema}")
            together.wait(10)
            answers.append(connection.execute(asked).fetchone())

    threads = [Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [(0,)] * 3


def test_whoever_is_cancelled_as_he_asks_whether_another_is_dead_keeps_no_lock(
    opened: Open, url: str, sql: Sql
) -> None:
    """His connection lives on in a pool, and its locks with it."""
    opened()
    plain, _, schema = url.partition("&schema=")
    # Found before the real one: the second lock takes a minute.
    sql.execute(
        "CREATE FUNCTION hashtextextended(of text, seed bigint) RETURNS bigint LANGUAGE sql AS"
        " 'SELECT pg_catalog.hashtextextended(of, seed) FROM pg_sleep(60 * (seed = 0)::integer)'"
    )
    with psycopg.connect(plain) as connection:
        connection.execute(f"SET search_path = {schema}, pg_catalog; SET statement_timeout = 300")
        connection.commit()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT is_dead('nobody')")
        connection.rollback()
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
        assert sql.execute(locks, (connection.info.backend_pid,)).fetchone() == (0,)


def test_a_claim_waits_for_nobody_who_asks_whether_another_is_dead(opened: Open, sql: Sql) -> None:
    """Who cannot ask takes him for alive."""
    broker, waiter = opened(), waiting(opened())
    sql.execute("SELECT pg_advisory_lock(hashtextextended(channel, 1)) FROM waiter")
    sql.execute("UPDATE upkeep SET next_ms = 0")
    started = time.monotonic()
    assert claim(broker) == []
    assert time.monotonic() - started < 1.5
    mine = publish(broker, message())
    assert ids(claim(waiter, limit=10)) == ids(mine)


def test_the_server_looks_after_a_client_who_says_nothing(binaries: Path) -> None:
    """So it notices within a quarter of a minute that a machine is gone; else after two hours."""
    port = free_port()
    with serving(binaries, "listen_addresses=127.0.0.1", f"port={port}"):
        url = f"postgresql://dibs@127.0.0.1:{port}/postgres"
        with closing(open_url(url, clock=SystemClock(), worker_id=os.urandom(16))) as broker:
            assert isinstance(broker, PostgresBroker)
            names = ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
            shown = broker._session.execute(*(f"SHOW tcp_{name}" for name in names))
            assert [row for ((row,),) in shown] == ["10", "3", "3", "5000"]


def test_a_connection_that_ends_as_it_begins_is_trouble_and_no_end_of_a_worker(
    opened: Open, sql: Sql
) -> None:
    """The server hung up after it had let us in, and before anything was asked."""
    broker = opened()
    assert isinstance(broker, PostgresBroker)
    session = broker._session
    session.close()
    connect = session._connect

    def ending(seconds: float) -> Any:
        connection = connect(seconds)
        sql.execute("SELECT pg_terminate_backend(%s)", (connection.pgconn.backend_pid,))
        with suppress(psycopg.Error):
            until(connection.pgconn.consume_input, "its end is read")
        return connection

    session._connect = ending
    with pytest.raises(BrokerUnavailable):
        claim(broker)
    session._connect = connect
    assert claim(broker) == []
