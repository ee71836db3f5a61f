"""PostgreSQL: queues in one schema of a database, for processes anywhere.

Called by: `brokers.url`, `dibs migrate`, and whoever brings connections of their own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import Connection, Error

from dibs.brokers.contract import CALL_LIMIT_SECONDS, Broker, Capabilities
from dibs.brokers.postgres.broker import BATCH, PostgresBroker
from dibs.clock import Clock
from dibs.errors import BrokerUnavailable, UrlError
from dibs.libpq.dial import SETTINGS, Address, address, dial
from dibs.libpq.listener import Listener
from dibs.libpq.schema import migrate
from dibs.libpq.session import Session

__all__ = ["PostgresBroker", "migrate_url", "open_postgres", "open_url"]

MIGRATIONS = sorted((Path(__file__).parent / "migrations").glob("*.sql"))
OPTIONS = {"schema": "dibs", "listen": "yes"}
"""What a URL may say besides what libpq takes, and its defaults."""


def open_url(url: str, *, clock: Clock, worker_id: bytes) -> Broker:
    """Open the queues of a database; make their schema if there is none.

    The URL is libpq's. `schema=` names the schema; `listen=no` is for a pooler that gives each
    transaction another connection: nobody is rung then, and everybody looks once a second.

    Raises:
        UrlError: the URL cannot be read.
        BrokerUnavailable: nobody answers.
        BrokerRefused: there is no schema, or an old one; the text says what to do.
    """
    to = _address(url)
    listen = to.options["listen"] == "yes"
    parameters = _with_settings(to.parameters) if listen else to.parameters
    return open_postgres(
        partial(dial, parameters, clock),
        clock=clock,
        worker_id=worker_id,
        schema=to.options["schema"],
        listen=listen,
        shown=to.shown,
    )


def open_postgres(
    connect: Callable[[float], Connection[Any]],
    *,
    clock: Clock,
    worker_id: bytes,
    schema: str = OPTIONS["schema"],
    listen: bool = True,
    shown: str = "postgresql://",
) -> Broker:
    """Open the queues behind connections of your own making.

    Args:
        connect: makes a connection, within so many seconds; called whenever one is needed, and
            one more for the bell. What it returns is the broker's from then on.
        clock: what durations are counted on.
        worker_id: 16 random bytes, of nobody else.
        schema: where the tables are.
        listen: whether a connection stays the same, so that it can listen.
        shown: what people are told of where this is; no secrets.

    Raises:
        BrokerUnavailable, BrokerRefused: as `open_url`.
    """
    connection = _connected(connect, shown)
    with connection:
        found = migrate(connection, schema, MIGRATIONS, shown, only_new=True)
    sessions = [
        Session(connect, clock, shown, schema, CALL_LIMIT_SECONDS, persistent=listen)
        for _ in range(2)
    ]
    level, note = sessions[0].call("about")[0][2:]
    return PostgresBroker(
        sessions[0],
        Listener(sessions[1] if listen else None, worker_id),
        clock,
        capabilities=Capabilities(level, note, BATCH, 1 << 20),
        created=found == 0,
    )


def migrate_url(url: str, clock: Clock) -> tuple[str, int, int]:
    """Bring the schema of a URL up to date; return where it is, its version before, and after.

    Raises:
        UrlError, BrokerUnavailable, BrokerRefused, SchemaTooNew: nothing was changed.
    """
    to = _address(url)
    with _connected(partial(dial, to.parameters, clock), to.shown) as connection:
        found = migrate(connection, to.options["schema"], MIGRATIONS, to.shown)
    return to.shown, found, len(MIGRATIONS)


def _address(url: str) -> Address:
    to = address(url, OPTIONS)
    if to.options["listen"] not in {"yes", "no"}:
        raise UrlError(f"{to.shown}: `listen` is yes or no, not {to.options['listen']!r}")
    if not to.options["schema"].isidentifier():
        raise UrlError(f"{to.shown}: `schema` is a plain name, not {to.options['schema']!r}")
    return to


def _with_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    ours = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    return parameters | {"options": f"{ours} {parameters.get('options', '')}".strip()}


def _connected(connect: Callable[[float], Connection[Any]], shown: str) -> Connection[Any]:
    try:
        return connect(CALL_LIMIT_SECONDS)
    except Error as error:
        text = str(error).partition("\n")[0]
        raise BrokerUnavailable(f"{shown} cannot be reached: {text}") from error
