"""`dibs queues`: how much lies in each queue; pausing, resuming and purging one.

Must never: make a queue file, make up a queue, or print anything but data to stdout.
Called by: `dibs.cli.commands`.
"""

from collections.abc import Sequence

import click
import msgspec

from dibs.cli.banner import place
from dibs.cli.commands import Group, examples
from dibs.cli.selecting import (
    agreed,
    check_queue,
    json_option,
    opened_without_ids,
    queue_first,
    url_option,
)
from dibs.cli.tables import aligned
from dibs.message import QueueCounts
from dibs.text import counted, duration, one_line

HEADINGS = ("queue", "ready", "scheduled", "in flight", "dead", "oldest ready")
EXIT_NOT_DONE = 1


class Queues(Group):
    """A group whose verb may be left out: `dibs queues photos:app` lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say `list` where no verb is named and no help is asked for."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Queues,
    short_help="Show how much lies in each queue; pause, resume, purge.",
    epilog=examples(
        "dibs queues photos:app                  the broker of an app",
        "dibs queues --url sqlite:///dibs.db     a broker by its address",
        "dibs queues --json | jq '.queues[].ready'",
        "dibs queues pause photos photos:app     let no worker claim from `photos`",
    ),
)
def command() -> None:
    """Show how much lies in each queue. The verb may be left out: `dibs queues [APP]` lists.

    What it can be told, `dibs queues list --help` says.
    """


@command.command(
    "list",
    short_help="Show how much lies in each queue.",
    epilog=examples("dibs queues photos:app", "dibs queues list --json | jq '.queues[].ready'"),
)
@click.argument("words", nargs=-1, metavar="[APP]")
@json_option
@url_option
def list_(words: tuple[str, ...], in_json: bool, url: str | None) -> None:
    """Show how much lies in each queue of the broker of APP, or of `--url`, or of DIBS_URL.

    In JSON a number is null where nobody can tell.
    """
    with opened_without_ids(words, url) as broker:
        counts = sorted(broker.inspector().queues(), key=lambda queue: queue.name)
        where = place(broker)
    if in_json:
        click.echo(msgspec.json.encode({"queues": counts}))
    elif counts:
        click.echo(table(counts), nl=False)
    else:
        click.echo(f"no queues yet in {where}: the first job of a queue makes it")


@command.command(
    short_help="Let nobody claim from a queue.",
    epilog=examples(
        "dibs queues pause photos photos:app",
        "dibs queues pause photos --url sqlite:///photos.db",
    ),
)
@click.argument("queue")
@click.argument("words", nargs=-1, metavar="[APP]")
@json_option
@url_option
def pause(queue: str, words: tuple[str, ...], in_json: bool, url: str | None) -> None:
    """Let nobody claim from QUEUE until it is resumed, whatever restarts meanwhile.

    Jobs in flight go on, and more can be enqueued. APP may stand before QUEUE.
    """
    queue, others = queue_first(queue, words)
    with opened_without_ids(others, url) as broker:
        check_queue(broker.inspector(), queue)
        broker.inspector().pause(queue)
    _tell(queue, "paused: its jobs wait until it is resumed", in_json, paused=True)


@command.command(
    short_help="Let a paused queue be claimed from again.",
    epilog=examples("dibs queues resume photos photos:app"),
)
@click.argument("queue")
@click.argument("words", nargs=-1, metavar="[APP]")
@json_option
@url_option
def resume(queue: str, words: tuple[str, ...], in_json: bool, url: str | None) -> None:
    """Let QUEUE be claimed from again, and wake a worker for it.

    APP may stand before QUEUE.
    """
    queue, others = queue_first(queue, words)
    with opened_without_ids(others, url) as broker:
        check_queue(broker.inspector(), queue)
        broker.inspector().resume(queue)
    _tell(queue, "resumed", in_json, paused=False)


@command.command(
    short_help="Remove what is ready or scheduled in a queue.",
    epilog=examples(
        "dibs queues purge photos photos:app --dry-run",
        "dibs queues purge photos photos:app --yes",
    ),
)
@click.argument("queue")
@click.argument("words", nargs=-1, metavar="[APP]")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@url_option
def purge(
    *, queue: str, words: tuple[str, ...], dry_run: bool, yes: bool, in_json: bool, url: str | None
) -> int:
    """Remove what is ready or scheduled in QUEUE, for good. What is in flight goes on.

    APP may stand before QUEUE.
    """
    purged, about = 0, ""
    queue, others = queue_first(queue, words)
    with opened_without_ids(others, url) as broker:
        inspector = broker.inspector()
        check_queue(inspector, queue)
        (found,) = (one for one in inspector.queues() if one.name == queue)
        waiting = (found.ready or 0) + (found.scheduled or 0)
        if not broker.capabilities.exact_counts:
            about = "about "
        if (waiting or about) and not dry_run:  # about none may be some
            if not agreed(f"Remove {about}{counted(waiting, 'job')} of {queue} for good?", yes):
                click.echo("nothing was changed", err=True)
                return EXIT_NOT_DONE
            purged = inspector.purge(queue)
    what = f"{about}{counted(waiting, 'job')} would be" if dry_run else counted(purged, "job")
    _tell(queue, f"{what} removed", in_json, waiting=waiting, purged=purged, dry_run=dry_run)
    return 0


def table(counts: Sequence[QueueCounts]) -> str:
    """Return the counts in columns; a paused queue says so at the end of its row."""
    rows = [HEADINGS, *map(_row, counts)]
    if any(queue.paused for queue in counts):
        marks = ["", *("paused" if queue.paused else "" for queue in counts)]
        rows = [(*row, mark) for row, mark in zip(rows, marks, strict=True)]
    return aligned(rows, range(1, len(HEADINGS)))


def _row(queue: QueueCounts) -> tuple[str, ...]:
    numbers = (queue.ready, queue.scheduled, queue.in_flight, queue.dead)
    known = ("?" if number is None else f"{number:,}" for number in numbers)
    oldest = queue.oldest_ready_seconds
    return (one_line(queue.name), *known, "-" if oldest is None else duration(oldest))


def _tell(queue: str, text: str, in_json: bool, **data: object) -> None:
    if in_json:
        click.echo(msgspec.json.encode({"queue": queue, **data}))
    else:
        click.echo(f"{queue}: {text}")
