"""`dibs migrate`: bring the tables of a PostgreSQL database up to date.

Must never: change a schema that a newer dibs made, or show a password.
Called by: `dibs.cli.commands`.
"""

from functools import partial

import click

from dibs.brokers.contract import CALL_LIMIT_SECONDS
from dibs.brokers.url import absolute, redact
from dibs.cli.broker import url_of
from dibs.cli.commands import examples
from dibs.cli.selecting import url_option
from dibs.clock import SystemClock
from dibs.errors import UserError
from dibs.text import counted


@click.command(
    short_help="Make or update the tables in PostgreSQL.",
    epilog=examples(
        "dibs migrate photos:app",
        "dibs migrate --url postgresql://owner@db.example.com/shop",
        "dibs migrate --url 'postgresql://localhost/shop?schema=jobs'",
    ),
)
@click.argument("app", required=False)
@url_option
def command(app: str | None, url: str | None) -> None:
    """Make the tables of APP's database, or of `--url`, or of DIBS_URL; or bring them up to date.

    It may be run at any time, by several at once; what is up to date is left alone. The role needs
    to own the schema, or to be allowed to create it. Workers and producers do this by themselves
    where there is no schema yet and they may; they never change one that is there.
    """
    found = url_of(app, url)
    if not absolute(found).startswith(("postgres://", "postgresql://")):
        raise UserError(f"{redact(found)} has no tables to migrate: only PostgreSQL has")
    from dibs.brokers.postgres import MIGRATIONS
    from dibs.wires.libpq.dial import address, dial
    from dibs.wires.libpq.schema import migrate
    from dibs.wires.libpq.session import reached

    to = address(found)
    connect = partial(dial, to.parameters, SystemClock())
    with reached(connect, CALL_LIMIT_SECONDS, to.shown) as connection:
        before = migrate(connection, to.schema, MIGRATIONS, to.shown)
    if before == len(MIGRATIONS):
        click.echo(f"{to.shown}: up to date, version {before}")
    else:
        run = counted(len(MIGRATIONS) - before, "migration")
        click.echo(f"{to.shown}: {run} run, version {len(MIGRATIONS)}")
