"""`dibs enqueue`: one job, by hand.

Owns: that arguments fit the task before anything is stored.
Must never: call the task.
Called by: `dibs.cli.commands`.
"""

from typing import Any

import click
import msgspec

from dibs.cli import arguments
from dibs.cli.arguments import named_values
from dibs.cli.broker import refuse_private
from dibs.cli.commands import examples
from dibs.errors import ArgumentError, PayloadError
from dibs.loading import import_app
from dibs.task import AnyTask


@click.command(
    short_help="Enqueue one job.",
    epilog=examples(
        "dibs enqueue photos:app resize --arg path=a.jpg --arg width=64",
        "dibs enqueue photos:app resize --arg path=a.jpg --delay 60 --queue slow",
        "dibs enqueue mail:app send --arg to='[\"a@b.c\"]' --arg code='\"007\"'",
    ),
)
@click.argument("app")
@click.argument("task")
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"An argument of the task. {arguments.HELP}",
)
@click.option("--delay", type=float, metavar="SECONDS", help="How long it waits before it may run.")
@click.option("--queue", help="Its queue.  [default: the task's own]")
@click.option("--url", help="The broker.  [default: the app's own, which may be DIBS_URL]")
def command(
    *,
    app: str,
    task: str,
    arguments: tuple[str, ...],
    delay: float | None,
    queue: str | None,
    url: str | None,
) -> None:
    """Enqueue a job of TASK of APP, and print its id when it is stored."""
    found = import_app(app)
    chosen = found.find(task)
    args, kwargs = _fitted(chosen, arguments)
    if url is not None:
        found.redirect(url)
    refuse_private(found.url)
    job = chosen.options(delay=delay, queue=queue).enqueue(*args, **kwargs)
    click.echo(job.id)


def _fitted(task: AnyTask, given: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments in the types of the task's parameters, as a worker will read them.

    Raises:
        ArgumentError: they do not fit; the text names the parameter.
    """
    try:
        return task.codec.decode(msgspec.json.encode(named_values(given)))
    except PayloadError as exc:
        raise ArgumentError(str(exc).removeprefix("the payload does not fit: ")) from exc
