"""`dibs ledger`: the ledger of `once` in a user's own database.

Owns: how a database is named on a command line and opened, with apsw or the PostgreSQL driver that
is installed.
Must never: make a database, or delete before it was asked to.
Called by: `dibs.cli.commands`.
"""

import contextlib
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

from dibs.brokers.url import redact
from dibs.cli.commands import Group, examples
from dibs.cli.filters import age_ms
from dibs.cli.selecting import agreed, json_option
from dibs.cli.views import as_json
from dibs.errors import LedgerError
from dibs.text import counted, duration

EXIT_NOT_DONE = 1
_BUSY_MS = 5_000


@click.group(
    cls=Group,
    short_help="Prune the ledger of `once`.",
    epilog=examples("dibs ledger prune sqlite:///shop.db --older 30d"),
)
def command() -> None:
    """Look after `dibs_ledger`, the table that `once` keeps in your own database."""


@command.command(
    short_help="Delete rows of effects that were done long ago.",
    epilog=examples(
        "dibs ledger prune sqlite:///shop.db --dry-run      how many rows there are",
        "dibs ledger prune shop.db --older 90d",
        "dibs ledger prune postgresql://localhost/shop --yes --json",
    ),
)
@click.argument("database")
@click.option(
    "--older",
    default="30d",
    show_default=True,
    metavar="AGE",
    help="Of effects done longer ago: 90s, 15m, 2h, 1d, 1w.",
)
@click.option("--dry-run", is_flag=True, help="Count the rows, and delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(database: str, older: str, dry_run: bool, yes: bool, in_json: bool) -> int:
    """Delete the old rows of `dibs_ledger` in DATABASE, a path or a URL.

    A job that comes back after its row is gone does its effect again: choose an age longer than any
    delay, retry or redrive of yours.
    """
    from dibs import ledger

    seconds = (age_ms("--older", older) or 0) / 1_000
    with _opened(database) as connection:
        count, deleted = ledger.prune(connection, seconds, dry_run=True), 0
        ago, where = duration(seconds), redact(database)
        found = f"{counted(count, 'row')} of effects done more than {ago} ago in {where}"
        if count and not dry_run:
            if not agreed(f"Delete {found}?", yes):
                click.echo("nothing was changed", err=True)
                return EXIT_NOT_DONE
            deleted = ledger.prune(connection, seconds)
    if in_json:
        click.echo(as_json({"matched": count, "deleted": deleted, "dry_run": dry_run}))
    else:
        click.echo(found if dry_run or not count else f"deleted {counted(deleted, 'row')}")
    return 0


@contextlib.contextmanager
def _opened(database: str) -> Iterator[Any]:
    scheme, separator, rest = database.partition("://")
    if not separator:
        opening = _sqlite(database)
    elif scheme == "sqlite":
        opening = _sqlite(rest.removeprefix("/"))
    elif scheme.partition("+")[0] in ("postgres", "postgresql"):
        opening = _postgresql(f"postgresql://{rest}")
    else:
        raise LedgerError(f"{redact(database)}: give a path, `sqlite:///...` or `postgresql://...`")
    with opening as connection:
        yield connection


@contextlib.contextmanager
def _sqlite(path: str) -> Iterator[Any]:
    import apsw

    if not os.path.isfile(path):
        raise LedgerError(f"there is no database {path}")
    try:
        with contextlib.closing(apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.set_busy_timeout(_BUSY_MS)
            yield connection
    except apsw.Error as error:
        raise LedgerError(f"{path}: {error}") from error


@contextlib.contextmanager
def _postgresql(url: str) -> Iterator[Any]:
    driver = _postgresql_driver()
    try:
        with contextlib.closing(driver.connect(url)) as connection:
            yield connection
    except driver.Error as error:
        raise LedgerError(f"{redact(url)}: {error}") from error


def _postgresql_driver() -> Any:
    for name in ("psycopg", "psycopg2"):
        with contextlib.suppress(ImportError):
            return import_module(name)
    raise LedgerError("for PostgreSQL install psycopg or psycopg2 beside dibs")
