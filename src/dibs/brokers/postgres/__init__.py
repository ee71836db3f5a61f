"""PostgreSQL: queues in one schema of a database, for processes anywhere.

Called by: `brokers.url`, `dibs migrate`, and whoever brings connections of their own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import Connection

from dibs.brokers.contract import CALL_LIMIT_SECONDS, Broker
from dibs.brokers.postgres.broker import PostgresBroker
from dibs.clock import Clock
from dibs.wires.libpq.dial import SCHEMA, address, dial
from dibs.wires.libpq.listener import SHARE, Listener
from dibs.wires.libpq.schema import prepare
from dibs.wires.libpq.session import Session
from dibs.wires.limit import Limit

__all__ = ["MIGRATIONS", "PostgresBroker", "open_postgres", "open_url"]

MIGRATIONS = sorted((Path(__file__).parent / "migrations").glob("*.sql"))


def open_url(url: str, *, clock: Clock, worker_id: bytes) -> Broker:
    """Open the queues of a database; make their schema if there is none.

    The URL is libpq's. `schema=` names the schema; `listen=no` is for a pooler that gives each
    transaction another connection: nobody is rung then, and everybody looks once a second.

    Raises:
        UrlError: the URL cannot be read.
        BrokerUnavailable: nobody answers.
        BrokerRefused: there is no schema, or an old one; the text says what to do.
    """
    to = address(url)
    return open_postgres(
        partial(dial, to.parameters, clock),
        clock=clock,
        worker_id=worker_id,
        schema=to.schema,
        listen=to.listen,
        shown=to.shown,
    )


def open_postgres(
    connect: Callable[[float], Connection[Any]],
    *,
    clock: Clock,
    worker_id: bytes,
    schema: str = SCHEMA,
    listen: bool = True,
    shown: str = "postgresql://",
) -> Broker:
    """Open the queues behind connections of your own making.

    Args:
        connect: makes a connection within so many seconds, whenever one is needed. What it returns
            is the broker's from then on: one for its calls, one for its bell.
        clock: what durations are counted on.
        worker_id: 16 random bytes, of nobody else.
        schema: where the tables are.
        listen: whether a connection stays the same, so that it can listen.
        shown: what people are told of where this is; no secrets.

    Raises:
        BrokerUnavailable, BrokerRefused: as `open_url`.
    """
    limit = Limit(CALL_LIMIT_SECONDS, clock)
    session = Session(connect, clock, shown, schema, limit, persistent=listen)
    found = prepare(session, connect, MIGRATIONS)
    bell = Listener(session.beside(SHARE) if listen else None, worker_id, clock)
    return PostgresBroker(session, bell, clock, created=found == 0)
