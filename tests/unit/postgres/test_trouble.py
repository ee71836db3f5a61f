"""The broker when its server is gone, slow, full, or set in a way that would lose jobs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from psycopg import Connection, OperationalError

from dibs.brokers.contract import Applied, Broker, Finding, Held, Stored, Unknown
from dibs.brokers.postgres import open_postgres, open_url
from dibs.brokers.url import redact
from dibs.cli import main
from dibs.clock import SystemClock
from dibs.errors import (
    BrokerBusy,
    BrokerFull,
    BrokerRefused,
    BrokerUnavailable,
    PublishUnknown,
    UrlError,
)
from dibs.message import Ack, Release, Settlement
from dibs.testing.conformance.waiting import rung
from dibs.testing.making import claim, claim_all, claim_one, ids, message, messages, publish, settle
from dibs.wires.libpq.dial import address, dial
from tests.servers.postgres import Server, serving, stop_the_clock
from tests.unit.postgres.conftest import Open
from tests.worker.workers import until


@contextmanager
def bounded(seconds: float = 5 + 1) -> Iterator[None]:
    """See that what is done inside ends in time."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def paused(server: Server) -> Iterator[Callable[[], None]]:
    """Stops all processes of the server, and lets them go on in the end."""
    yield server.pause
    server.pause(signal.SIGCONT)


def test_rule_33_a_job_waits_since_it_was_given_back_though_the_clock_was_set_back(
    opened: Open, sql: psycopg.Connection, url: str
) -> None:
    """Before its due time, which is over all the same."""
    broker, due_ms = opened(), 1_800_000_000_000
    stop_the_clock(sql, url.partition("&schema=")[2], due_ms - 1_000)
    (whole,) = publish(broker, message(due_ms=due_ms))
    sql.execute("UPDATE test_time SET ms = %s", (due_ms,))
    lease = claim_one(broker)
    sql.execute("UPDATE test_time SET ms = %s", (due_ms - 60_000,))
    assert settle(broker, lease, Release(0)) == Applied()
    view = broker.inspector().job(whole.id)
    assert view is not None
    assert view.since_ms == due_ms - 60_000
    sql.execute("UPDATE test_time SET ms = ms + 3000")
    assert [one.oldest_ready_seconds for one in broker.inspector().queues()] == [3.0]


@pytest.mark.parametrize("verb", ["publish", "claim", "settle", "extend", "results", "declare"])
def test_rule_26_a_stopped_server_holds_up_no_call(
    opened: Open, paused: Callable[[], None], verb: str
) -> None:
    """Nobody can tell what became of what had left, and nobody says that he can."""
    broker = opened()
    publish(broker, *messages(2, visibility_timeout_ms=6_000))
    lease = claim_one(broker)
    paused()
    with bounded(1 + 1):
        if verb == "publish":
            with pytest.raises(PublishUnknown):
                broker.publish([message()])
        elif verb == "settle":
            assert broker.settle([Settlement(lease, Ack())]) == [Unknown()]
        elif verb == "extend":
            assert broker.extend([lease]) == [Unknown()]
        else:
            calls: dict[str, Callable[[], object]] = {
                "claim": lambda: claim(broker),
                "results": lambda: broker.results([lease.message.id]),
                "declare": lambda: broker.declare(["photos"]),
            }
            with pytest.raises(BrokerUnavailable):
                calls[verb]()
    with bounded(1 + 1), pytest.raises(BrokerUnavailable):  # and now it has to connect anew
        claim(broker)


@pytest.mark.parametrize("verb", ["claim", "results"])
def test_rule_26_a_call_and_its_bell_have_one_limit(
    opened: Open, paused: Callable[[], None], verb: str
) -> None:
    """However many steps it has, and though the bell's connection is still to be made."""
    broker = opened()
    publish(broker, *messages(2, visibility_timeout_ms=6_000))
    lease = claim_one(broker)
    broker.bell()
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: claim(broker),
        "results": lambda: broker.results([lease.message.id]),
    }
    paused()
    with bounded(1 + 0.7), pytest.raises(BrokerUnavailable):
        calls[verb]()


def test_rule_26_opening_ends_too(opened: Open, paused: Callable[[], None]) -> None:
    """Within the time of any call."""
    opened()
    paused()
    with bounded(5 + 1), pytest.raises(BrokerUnavailable, match="did not answer within 5 s"):
        opened()


def test_rule_26_opening_ends_though_the_server_stops_after_the_connection_was_made(
    opened: Open, url: str, paused: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that has no connection left to give."""
    opened()
    at, told, connections = address(url), list[Exception](), list[Connection[Any]]()
    monkeypatch.setattr("dibs.brokers.postgres.CALL_LIMIT_SECONDS", 1)

    def connect(seconds: float) -> Connection[Any]:
        made = dial(at.parameters, SystemClock(), seconds)
        if not connections:
            paused()
        connections.append(made)
        return made

    def open_one() -> None:
        try:
            open_postgres(connect, clock=SystemClock(), worker_id=bytes(16), schema=at.schema)
        except BrokerUnavailable as error:
            told.append(error)

    opening = Thread(target=open_one, daemon=True)
    opening.start()
    opening.join(1 + 1)
    assert [str(error) for error in told] == ["postgresql://: no answer within 1 s"]


@pytest.mark.parametrize("by_environment", [False, True])
def test_rule_26_a_silent_host_leaves_time_for_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    """One whose machine hangs takes connections, and says nothing on them."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts, ports = f"127.0.0.1,{server.folder}", f"{silent.getsockname()[1]},5432"
        url = "postgresql://dibs@/postgres"
        if by_environment:
            monkeypatch.setenv("PGHOST", hosts)
            monkeypatch.setenv("PGPORT", ports)
        else:
            url += f"?host={hosts}&port={ports}"
        url += f"{'&' if '?' in url else '?'}target_session_attrs=read-write"
        with bounded(1), dial(address(url).parameters, SystemClock(), 1) as connection:
            assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)


def test_rule_26_the_hosts_that_are_silent_share_the_time_and_are_named() -> None:
    """Each with what was wrong with it."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        at = address(f"postgresql://dibs@/postgres?host=127.0.0.1,/nowhere,localhost&port={port}")
        told = r"127\.0\.0\.1 did not answer .*; .*/nowhere.*; localhost did not answer within"
        with bounded(0.6 + 0.5), pytest.raises(OperationalError, match=told):
            dial(at.parameters, SystemClock(), 0.6)


def test_rule_26_a_short_lease_makes_for_short_calls(
    opened: Open, paused: Callable[[], None]
) -> None:
    """A worker must renew its leases: a sixth of the shortest is what a call may take."""
    broker = opened()
    publish(broker, message(visibility_timeout_ms=3_000))
    claim_one(broker)
    paused()
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        claim(broker)
    assert 0.4 < time.monotonic() - started < 1.5


def test_rule_25_every_verb_goes_on_when_the_server_is_back(opened: Open, server: Server) -> None:
    """What was stored is there, leases are held, and the bell rings again."""
    broker, other = opened(), opened()
    publish(broker, *messages(3))
    lease = claim_one(broker)
    waiting = opened()
    bell = waiting.bell()
    assert claim(waiting, "other") == []
    server.stop(signal.SIGQUIT)
    assert rung(waiting) == [waiting]
    with bounded(), pytest.raises(BrokerUnavailable):
        waiting.claim(["other"], 10)
    with pytest.raises(BrokerUnavailable):
        broker.publish([message()])  # nothing left, so nothing is unknown
    server.start()
    assert claim(waiting, "other") == []
    assert waiting.bell() == bell
    assert rung(waiting, within=0) == []
    publish(other, message("other"))
    assert rung(waiting) == [waiting]
    assert broker.extend([lease]) == [Held(30.0)]
    assert settle(broker, lease, Ack()) == Applied()
    assert len(claim_all(broker)) == 2


def test_a_bell_whose_connection_was_cut_rings_and_listens_again(
    opened: Open, sql: psycopg.Connection
) -> None:
    """Its holder looks, and so misses nothing."""
    broker, waiting = opened(), opened()
    waiting.bell()
    assert claim(waiting) == []
    row = sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchone()
    assert row == (True,)
    assert rung(waiting) == [waiting]
    assert claim(waiting, limit=10) == []
    publish(broker, message())
    assert rung(waiting) == [waiting]


def test_a_ring_is_not_lost_on_the_dead(opened: Open, url: str) -> None:
    """Whoever was killed while it waited is passed over."""
    broker, alive = opened(), opened()
    code = (
        "import sys, time; from dibs.brokers.postgres import open_url; from dibs.clock import *;"
        f"b = open_url({url!r}, clock=SystemClock(), worker_id=bytes(16)); b.bell();"
        "b.claim(['photos'], 10); print('waits', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"waits\n"
    child.kill()
    child.communicate()
    alive.bell()
    assert claim(alive, limit=10) == []
    for _ in range(2):
        publish(broker, message())
        assert rung(alive) == [alive]
        assert len(claim(alive, limit=10)) == 1


def test_the_wishes_of_the_dead_are_forgotten(
    opened: Open, url: str, sql: psycopg.Connection
) -> None:
    """Of a worker that was killed when it was busy, and of one who waited for the end of a job."""
    broker, alive = opened(), opened()
    job, _ = publish(broker, *messages(2))
    code = (
        "import os, time; from dibs.brokers.postgres import open_url; from dibs.clock import *;"
        f"a, b = [open_url({url!r}, clock=SystemClock(), worker_id=os.urandom(16)) for _ in '12'];"
        f"a.bell(); a.claim(['photos'], 1); b.bell(); b.results([{job.id!r}]);"
        "print('waits', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"waits\n"
    alive.bell()
    assert len(claim(alive, limit=10)) == 1
    assert alive.results([job.id]) == [None]
    wishes = (
        "SELECT (SELECT count(*) FROM waiter), (SELECT count(*) FROM awaited WHERE id = %s),"
        " (SELECT count(*) FROM waiter w WHERE NOT is_dead(w.channel))"
    )

    def left() -> object:
        sql.execute("UPDATE upkeep SET next_ms = 0")
        claim(broker)
        return sql.execute(wishes, (job.id.hex(),)).fetchone()

    assert left() == (3, 2, 3)
    child.kill()
    child.communicate()
    until(lambda: left() == (1, 1, 1), "the dead are forgotten")


def test_a_waiter_is_rung_for_the_queues_of_its_last_claim(opened: Open) -> None:
    """For those that it did not ask for before, and no more for those that it asks for no more."""
    broker, first, second = opened(), opened(), opened()
    for waiting in (first, second):
        waiting.bell()
    assert first.claim(["mails"], 1).leases == []
    assert first.claim(["photos", "mails"], 1).leases == []
    publish(broker, message("photos"))
    assert rung(first) == [first]
    claim_all(first)
    assert first.claim(["photos", "mails"], 1).leases == []
    assert second.claim(["photos"], 1).leases == []
    assert first.claim(["mails"], 1).leases == []
    publish(broker, message("photos"))
    assert rung(first, second) == [second]


def test_rule_23_another_transaction_that_holds_a_row_ends_in_busy(
    opened: Open, sql: psycopg.Connection
) -> None:
    """A settlement waits for two seconds, and is then made again."""
    broker = opened()
    publish(broker, message())
    lease = claim_one(broker)
    with sql.transaction():
        sql.execute("SELECT FROM lease FOR UPDATE")
        with bounded(), pytest.raises(BrokerBusy, match="another transaction"):
            settle(broker, lease, Ack())
    assert settle(broker, lease, Ack()) == Applied()


def test_a_call_that_the_server_ended_is_not_told_as_a_lock(
    opened: Open, sql: psycopg.Connection
) -> None:
    """Nobody holds anything: it took longer than the server is set to allow."""
    broker = opened()
    publish(broker, message())
    lease = claim_one(broker)
    slow = "BEGIN PERFORM pg_sleep(10); RETURN NULL; END"
    sql.execute(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ {slow} $$")
    sql.execute("CREATE TRIGGER slow BEFORE DELETE ON lease EXECUTE FUNCTION slow()")
    with bounded(), pytest.raises(BrokerBusy, match=r"57014.*the server is slow") as caught:
        settle(broker, lease, Ack())
    assert "another transaction" not in str(caught.value)


def test_closing_is_stopped_by_no_transaction_that_holds_a_row(
    opened: Open, sql: psycopg.Connection
) -> None:
    """What is left then is the row of a waiter whom nobody can ring."""
    waiting = opened()
    waiting.bell()
    assert claim(waiting) == []
    with sql.transaction():
        sql.execute("SELECT FROM waiter FOR UPDATE")
        with bounded():
            waiting.close()


def test_two_publishers_of_the_same_keys_do_not_block_each_other(opened: Open) -> None:
    """They store them in the order of the keys, whatever order they were given in."""
    import threading

    done: list[list[type]] = []

    def store(broker: Broker, backwards: bool) -> None:
        for number in range(30):
            keys = [f"{number}-{k}" for k in range(20)]
            batch = [message(unique_key=key) for key in (reversed(keys) if backwards else keys)]
            done.append([type(answer) for answer in broker.publish(batch)])

    threads = [
        threading.Thread(target=store, args=(opened(), backwards)) for backwards in (False, True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 60
    assert sum(answers.count(Stored) for answers in done) == 600


@pytest.mark.parametrize("gone", ["TABLE message", "SCHEMA"])
def test_b17_what_is_stored_in_a_schema_that_was_dropped_is_refused(
    opened: Open, sql: psycopg.Connection, url: str, gone: str
) -> None:
    """Or in a table of it, also by who has stored something there before."""
    broker = opened()
    publish(broker, message())
    schema = url.partition("&schema=")[2] if gone == "SCHEMA" else ""
    sql.execute(f"DROP {gone} {schema} CASCADE")
    for _ in range(2):
        with pytest.raises(BrokerRefused, match="let the owner of the schema run `dibs migrate`"):
            broker.publish([message()])
        with pytest.raises(BrokerRefused, match="let the owner of the schema run `dibs migrate`"):
            claim(broker)


def test_rule_32_a_full_disk_refuses_to_store_and_lets_work_end(
    opened: Open, sql: psycopg.Connection
) -> None:
    """As the server says it: what is stored is safe, and can be acknowledged."""
    broker = opened()
    publish(broker, message())
    lease = claim_one(broker)
    sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'could not extend file: No space left' USING ERRCODE = '53100'; END $$"
    )
    sql.execute("CREATE TRIGGER refused BEFORE INSERT ON message EXECUTE FUNCTION refuse()")
    with pytest.raises(BrokerFull, match="make room"):
        broker.publish([message()])
    assert settle(broker, lease, Ack()) == Applied()
    sql.execute("DROP TRIGGER refused ON message")
    assert broker.publish([message()]) == [Stored()]


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("ALTER TABLE lease SET UNLOGGED", "unlogged tables is lease: .* SET LOGGED"),
        ("ALTER ROLE dibs SET synchronous_commit = off", "synchronous_commit = on"),
        ("ALTER ROLE dibs SET default_transaction_read_only = on", "read_only = off"),
    ],
)
def test_what_would_lose_jobs_is_refused(
    opened: Open, sql: psycopg.Connection, statement: str, word: str
) -> None:
    """The text says how to mend it, and `dibs doctor` shows it."""
    opened().declare(["photos"])
    sql.execute(statement)
    try:
        broker = opened()
        with pytest.raises(BrokerRefused, match=word):
            broker.declare(["photos"])
        assert [f.verdict for f in broker.inspector().findings()].count("bad") == 1
    finally:
        sql.execute("SET default_transaction_read_only = off")
        sql.execute("ALTER ROLE dibs RESET ALL")
        sql.execute("ALTER TABLE lease SET LOGGED")


def test_where_nothing_can_be_stored_no_schema_is_made_and_that_is_refused(
    sql: psycopg.Connection, url: str
) -> None:
    """By whoever is the first to open it, and by `dibs migrate`: the text says how to mend it."""
    sql.execute("ALTER ROLE dibs SET default_transaction_read_only = on")
    try:
        with pytest.raises(BrokerRefused, match=r"SET default_transaction_read_only = off"):
            open_url(url, clock=SystemClock(), worker_id=os.urandom(16))
        assert main(["migrate", "--url", url]) == 2
    finally:
        sql.execute("SET default_transaction_read_only = off")
        sql.execute("ALTER ROLE dibs RESET ALL")


def test_a_standby_is_refused_with_and_without_a_schema(binaries: Path) -> None:
    """Whoever names one is told of the primary."""
    with serving(binaries) as standby:
        url = standby.url("postgres")
        open_url(url, clock=SystemClock(), worker_id=os.urandom(16)).close()
        standby.become_standby()
        broker = open_url(url, clock=SystemClock(), worker_id=os.urandom(16))
        with pytest.raises(BrokerRefused, match=r"is standby: .* name the primary"):
            broker.declare(["photos"])
        broker.close()
        with pytest.raises(BrokerRefused, match=r"read-only transaction: .* name the primary"):
            open_url(f"{url}&schema=other", clock=SystemClock(), worker_id=os.urandom(16))


def test_the_level_is_what_the_server_is_set_to(opened: Open, binaries: Path) -> None:
    """Without fsync nothing survives a loss of power, but the death of a process does no harm."""
    broker = opened()
    assert broker.capabilities.durability == "D1"
    found = {finding.what: finding for finding in broker.inspector().findings()}
    assert found["fsync"].verdict == "note"
    assert found["connection"] == Finding("connection", "not encrypted", "good"), "by a socket"
    with serving(binaries, "fsync=on") as durable:
        at = durable.url("postgres")
        broker = open_url(at, clock=SystemClock(), worker_id=os.urandom(16))
        assert broker.capabilities.durability == "D2"
        broker.close()


def test_a_server_that_could_not_mend_a_torn_page_promises_no_survival_of_a_loss_of_power(
    binaries: Path,
) -> None:
    """Its log is on the disk, but holds no whole page to begin from."""
    with serving(binaries, "fsync=on", "full_page_writes=off") as torn:
        broker = open_url(torn.url("postgres"), clock=SystemClock(), worker_id=os.urandom(16))
        assert broker.capabilities.durability == "D1"
        assert "full_page_writes=off" in broker.capabilities.durability_note
        found = {finding.what: finding.verdict for finding in broker.inspector().findings()}
        assert found["full_page_writes"] == "note"
        broker.close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://u:hunter2@h/d?shema=x", "no option `shema`; did you mean `schema`"),
        ("postgresql://u:hunter2@h/d?listen=maybe", "`listen` is yes or no"),
        ("postgresql://u:hunter2@h/d?schema=a-b", "`schema` a plain name"),
        ("postgresql://u:hunter2@[h/d", "cannot be read"),
        ("postgresql://u:hun?hunter2@h/d", "%3F for an @, / and [?]"),
        ("postgresql://u:hun?hunter2=a@h/d", "%3F for an @, / and [?]"),
        ("postgresql://u:hunter2/a@h/d", "%2F and %3F"),
        ("postgresql://u:hunter2@localhost:x/d", "invalid integer value"),
        ("postgresql://u:pass@hunter2@h/d", "with %40, .* for an @"),
        ("postgresql://u:pass@hunter2:5432@h:5432/d", "with %40, .* for an @"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str, word: str) -> None:
    """By the option's name."""
    with pytest.raises((UrlError, BrokerUnavailable), match=word) as caught:
        open_url(url, clock=SystemClock(), worker_id=b"")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in redact(url)


def test_a_password_is_in_no_text(server: Server, url: str) -> None:
    """Neither of an error nor of what is shown."""
    gone = url.replace(str(server.folder), "/nowhere").replace("dibs@", "dibs:hunter2@")
    with bounded(), pytest.raises(BrokerUnavailable) as caught:
        open_url(gone, clock=SystemClock(), worker_id=b"")
    assert "hunter2" not in "".join(map(str, (caught.value, caught.value.__cause__)))
    assert "/nowhere" in str(caught.value)
    secret = url.replace("dibs@", "dibs:hunter2@")
    broker = open_url(secret, clock=SystemClock(), worker_id=os.urandom(16))
    assert "hunter2" not in broker.url + repr(broker) + repr(vars(broker))
    assert broker.url.startswith("postgresql:///postgres?host=")
    broker.close()


def test_behind_a_pooler_nobody_is_rung_and_everybody_looks(
    opened: Open, sql: psycopg.Connection
) -> None:
    """`listen=no`: no statement is prepared, nothing is set, and no connection listens."""
    broker, waiting = opened(), opened("&listen=no")
    waiting.bell()
    assert claim(waiting, limit=10) == []
    (published,) = publish(broker, message())
    assert rung(waiting, within=0) == []
    assert sql.execute("SELECT count(*) FROM waiter").fetchone() == (0,)
    assert ids(claim(waiting, limit=10)) == [published.id]
