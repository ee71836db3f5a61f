"""What the server does for a claim: its plan is the same on tables that nobody ever analysed."""

import os
import re
import time
from contextlib import closing
from itertools import count
from pathlib import Path

import psycopg
import pytest

from dibs.alike import Alike
from dibs.brokers.contract import Broker
from dibs.brokers.postgres import open_url
from dibs.clock import SystemClock
from dibs.message import Ack, Message, Settlement
from dibs.testing.making import claim, claim_all, message, messages, publish
from tests.servers.postgres import serving
from tests.unit.postgres.conftest import Open

_numbers = count()


def fill(broker: Broker, how_many: int) -> None:
    """Publish many messages in few calls."""
    for start in range(0, how_many, 5_000):
        size = min(5_000, how_many - start)
        ids = [next(_numbers).to_bytes(16) for _ in range(size)]
        broker.publish(Alike(Message(ids[0], "photos", "noop", b"{}"), ids, [b"{}"] * size))


def lay_down(sql: psycopg.Connection, how_many: int) -> None:
    """Store what publishing that many would, in a fraction of its time."""
    sql.execute(
        "INSERT INTO message(id, seq, due_ms, visibility_timeout_ms, timeout_ms, version, since_ms,"
        " queue, max_attempts, max_crashes, max_lost, priority, task, args)"
        " SELECT lpad(to_hex(n), 32, '0')::uuid, n, 0, 30000, 900000, 1, 0,"
        " q.no, 5, 3, 10, 0, 'noop', '{}'"
        " FROM queue q, generate_series(1, %s) n WHERE q.name = 'photos'",
        (how_many,),
    )
    sql.execute("INSERT INTO ready SELECT queue, true, 9, seq, id FROM message")


class Explained:
    """A connection on which every statement within a function is explained as it runs."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._notes: list[str] = []
        connection.add_notice_handler(lambda note: self._notes.append(note.message_primary or ""))
        connection.execute("LOAD 'auto_explain'")
        for setting in (
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_nested_statements = on",
            "auto_explain.log_analyze = on",
            "auto_explain.log_buffers = on",
            "auto_explain.log_timing = off",
            "client_min_messages = log",
        ):
            connection.execute(f"SET {setting}")

    def plan_of(self, call: str, part: str) -> str:
        """Return the plan of the statement in `call` that has `part` in it."""
        self._notes.clear()
        self._connection.execute(call)
        (found,) = [note for note in self._notes if part in note.partition("plan:")[2][:400]]
        return found


CLAIM = "SELECT * FROM claim(ARRAY['photos'], ARRAY[-1]::bigint[], 100, NULL, false)"


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize("waiting", [10, 30_000])
def test_a_claim_reads_what_it_grants_and_sorts_no_backlog(
    opened: Open, sql: psycopg.Connection, waiting: int, analysed: bool
) -> None:
    """One range of the index of `ready`, whose rows it then finds by place and message by id."""
    broker = opened()
    broker.declare(["photos"])
    explained = Explained(sql)
    explained.plan_of(CLAIM, "WITH found")  # planned while the tables are empty, and kept
    fill(broker, waiting)
    if analysed:
        sql.execute("ANALYZE message, ready, lease")
    check_plan(explained.plan_of(CLAIM, "WITH found"))


def test_at_a_million_waiting_on_tables_never_analysed_a_claim_reads_what_it_grants(
    binaries: Path,
) -> None:
    """By a plan that was kept since they were empty, and by one that is made now.

    On a server of its own, whose autovacuum cannot come and analyse them meanwhile.
    """
    with serving(binaries, "autovacuum=off", "max_wal_size=4GB") as server:
        url = server.url("postgres")
        with closing(open_url(url, clock=SystemClock(), worker_id=os.urandom(16))) as broker:
            broker.declare(["photos"])
        with (
            psycopg.connect(f"{url}&options=-csearch_path%3Ddibs", autocommit=True) as early,
            psycopg.connect(f"{url}&options=-csearch_path%3Ddibs", autocommit=True) as late,
        ):
            kept = Explained(early)
            kept.plan_of(CLAIM, "WITH found")
            lay_down(early, 1_000_000)
            for explained in (kept, Explained(late)):
                plan = explained.plan_of(CLAIM, "WITH found")
                check_plan(plan)
                assert "actual rows=100 " in plan, plan


def check_plan(plan: str) -> None:
    """See that it is one range of the index of `ready`, and what that finds."""
    nodes = [
        line for line in plan.splitlines() if "Scan" in line or "Join" in line or "Loop" in line
    ]
    text = "\n".join(nodes)
    assert text.count("Index Scan using ready_pkey") == 2, plan
    assert "Tid Scan on ready" in text, plan
    assert "Index Scan using message_pkey" in text, plan
    assert "Seq Scan" not in text, plan
    assert "Hash" not in plan, plan
    most = max(int(rows) for rows in re.findall(r"actual rows=(\d+)", plan))
    assert most <= 100, plan


@pytest.mark.parametrize("verb", ["acknowledge", "extend"])
def test_settling_finds_leases_by_id(opened: Open, sql: psycopg.Connection, verb: str) -> None:
    """In the order in which they were sent, the same for all: so nobody waits in a circle."""
    broker = opened()
    fill(broker, 2_000)
    held = claim_all(broker)
    mine = sorted(held[:50], key=lambda lease: lease.message.id)
    ids = ", ".join(f"'{lease.message.id.hex()}'" for lease in mine)
    seqs = ", ".join(str(lease.receipt) for lease in mine)
    ones = ", ".join("1" for _ in mine)
    more = "NULL, NULL, NULL, NULL" if verb == "acknowledge" else f"ARRAY[{ones}]::bigint[]"
    receipts = f"ARRAY[{ids}]::uuid[], ARRAY[{seqs}]::bigint[], ARRAY[{ones}]"
    plan = Explained(sql).plan_of(f"SELECT * FROM {verb}({receipts}, {more})", "WITH")
    order = r"Nested Loop.*\n(.*Buffers.*\n)?.*Function Scan on t .*\n.*Index Scan using lease_pkey"
    assert re.search(order, plan), plan
    assert "Seq Scan" not in plan, plan
    assert "Hash" not in plan, plan


def test_an_extended_lease_touches_no_index(opened: Open, sql: psycopg.Connection) -> None:
    """A renewal is a heap-only update."""
    broker = opened()
    publish(broker, *messages(20))
    held = claim(broker, limit=20)
    for _ in range(10):
        broker.extend(held)
    sql.execute("SELECT pg_stat_force_next_flush()")
    deadline = time.monotonic() + 10
    updates = hot = 0
    while updates < 200 and time.monotonic() < deadline:
        broker.extend(held[:1])
        row = sql.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
            " WHERE relname = 'lease' AND schemaname = current_schema()"
        ).fetchone()
        assert row is not None
        updates, hot = row
    assert hot == updates >= 200


def test_a_claim_does_not_walk_over_what_the_last_ones_left(
    opened: Open, sql: psycopg.Connection
) -> None:
    """Even where an old snapshot keeps every dead row from being passed over for good."""
    broker = opened()
    fill(broker, 20_000)
    with psycopg.connect(sql.info.dsn) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1")
        last: int | str = -1
        while leases := claim(broker, limit=1_000):
            broker.settle([Settlement(lease, Ack()) for lease in leases])
            last = leases[-1].receipt
        fill(broker, 200)
        explained = Explained(sql)
        read = {
            floor: fetched(explained.plan_of(CLAIM.replace("-1", str(floor)), "WITH found"))
            for floor in (last, -1)
        }
    assert read[last] * 10 < read[-1], read


def fetched(plan: str) -> int:
    """Return how many buffers the scan of the fresh messages read."""
    found = re.search(r"on ready r_1 .*\n.*Index Cond.*\n.*Buffers: shared hit=(\d+)", plan)
    assert found, plan
    return int(found[1])


def test_only_who_waits_is_notified(opened: Open, sql: psycopg.Connection) -> None:
    """A NOTIFY takes a lock of the whole cluster at its commit, so none is sent in vain."""
    broker = opened()
    sql.execute("LISTEN a_channel")
    sql.execute("SELECT pg_advisory_lock_shared(hashtextextended('a_channel', 0))")
    sql.execute("INSERT INTO waiter VALUES ('a_channel', ARRAY['photos'], false)")
    publish(broker, message(), message("another"))
    sql.execute("UPDATE waiter SET armed = true")
    publish(broker, message("another"))
    publish(broker, message())
    publish(broker, message())
    sql.execute("NOTIFY a_channel, 'the end'")
    assert [note.payload for note in sql.notifies(timeout=5, stop_after=2)] == ["work", "the end"]
