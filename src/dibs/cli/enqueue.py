"""`dibs enqueue`: one job, by hand.

Owns: that arguments fit the task before anything is stored.
Must never: call the task.
Called by: `dibs.cli.commands`.
"""

import shlex
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from dibs.cli import arguments
from dibs.cli.arguments import named_values
from dibs.cli.broker import refuse_private
from dibs.cli.commands import examples
from dibs.errors import ArgumentError, OptionError, PayloadError
from dibs.loading import import_app
from dibs.task import AnyTask


@click.command(
    short_help="Enqueue one job.",
    context_settings={"allow_extra_args": True},
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
@click.pass_context
def command(
    ctx: click.Context,
    *,
    app: str,
    task: str,
    arguments: tuple[str, ...],
    delay: float | None,
    queue: str | None,
    url: str | None,
) -> None:
    """Enqueue a job of TASK of APP, and print its id when it is stored."""
    for word in ctx.args:
        better = word if "=" in word else "NAME=VALUE"
        raise OptionError(f"{word!r} is one word too many: an argument is written --arg {better}")
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
    values = named_values(given)
    try:
        return task.codec.decode(msgspec.json.encode(values))
    except PayloadError as exc:
        text = str(exc).removeprefix("the payload does not fit: ")
        raise ArgumentError(text + _quoted(text, values)) from exc


def _quoted(text: str, values: Mapping[str, msgspec.Raw]) -> str:
    """Say how a value is written as text, if `text` says that it should have been."""
    for name, value in values.items():
        if f"parameter `{name}`: expected `str" in text:
            way = shlex.quote(msgspec.json.encode(bytes(value).decode()).decode())
            return f"; text that reads as JSON is quoted: --arg {name}={way}"
    return ""
