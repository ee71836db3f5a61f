"""`dibs jobs`: what is ready, scheduled and in flight, job by job.

Must never: change anything, or let a job's text steer the terminal.
Called by: `dibs.cli.commands`.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import click

from dibs.brokers.contract import Inspector
from dibs.cli.banner import place
from dibs.cli.commands import Group, examples
from dibs.cli.filters import Wanted
from dibs.cli.selecting import check_queue, json_option, now, opened, search, url_option
from dibs.cli.tables import aligned
from dibs.cli.views import as_data, as_json, done_data, done_page, page, shown_id, when
from dibs.errors import UserError
from dibs.message import JobView
from dibs.states import State
from dibs.text import one_line

STATES = {"ready": State.READY, "scheduled": State.SCHEDULED, "in-flight": State.IN_FLIGHT}


@click.group(
    cls=Group,
    short_help="List and show jobs.",
    epilog=examples(
        "dibs jobs list photos:app --state scheduled",
        "dibs jobs show photos:app 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d",
    ),
)
def command() -> None:
    """Jobs that are ready, scheduled or in flight. Dead letters are listed by `dibs dlq`."""


@command.command(
    "list",
    short_help="List jobs in their order.",
    epilog=examples(
        "dibs jobs list photos:app",
        "dibs jobs list photos:app --state in-flight --task resize",
        "dibs jobs list --url sqlite:///photos.db --queue photos --limit 1000 --json",
    ),
)
@click.argument("words", nargs=-1, metavar="[APP]")
@click.option("--state", type=click.Choice(list(STATES)), help="Only these.  [default: all three]")
@click.option("--queue", help="Only of this queue.")
@click.option("--task", help="Only of this task.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@json_option
@url_option
def list_(
    *,
    words: tuple[str, ...],
    state: str | None,
    queue: str | None,
    task: str | None,
    limit: int,
    in_json: bool,
    url: str | None,
) -> None:
    """List the jobs of the broker of APP, or of `--url`, or of DIBS_URL.

    The ready come as they will be claimed, the scheduled by due time, those in flight in the order
    in which they were published.
    """
    wanted = Wanted(queue=queue, task=task)
    states = list(STATES.values()) if state is None else [STATES[state]]
    with opened(words, url) as (broker, ids):
        if ids:
            raise UserError("to see a job of a known id: `dibs jobs show ID`")
        found = list(islice(_found(broker.inspector(), states, wanted), limit + 1))
        where = place(broker)
    shown, more = found[:limit], len(found) > limit
    if in_json:
        click.echo(as_json({"jobs": [as_data(view) for view in shown], "more": more}))
    elif shown:
        click.echo(_table(shown, now()), nl=False)
        if more:
            click.echo(f"... and more: the first {limit:,} are shown; see --limit")
    else:
        click.echo(
            f"no jobs in {where}" + (" are like that" if state or wanted != Wanted() else "")
        )


@command.command(
    short_help="Show all that is known of a job.",
    epilog=examples(
        "dibs jobs show photos:app 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d",
        "dibs jobs show 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d --json | jq .state",
    ),
)
@click.argument("words", nargs=-1, required=True, metavar="[APP] ID")
@json_option
@url_option
def show(*, words: tuple[str, ...], in_json: bool, url: str | None) -> None:
    """Show where a job is, its arguments and its counters, also when it is dead.

    Of one that is done its result is shown, while that is kept.
    """
    with opened(words, url) as (broker, ids):
        if len(ids) != 1:
            raise UserError("name one job by its id, as `dibs jobs list` shows it")
        (id,) = ids
        view = broker.inspector().job(id)
        end = None if view else broker.results(ids)[0]
    if view is not None:
        click.echo(as_json(as_data(view)) + "\n" if in_json else page(view, now()), nl=False)
    elif end is not None and end.kept and end.error is None:
        result = end.value or b"null"
        shown = as_json(done_data(id, result)) + "\n" if in_json else done_page(id, result)
        click.echo(shown, nl=False)
    else:
        raise UserError(f"there is no job {shown_id(id)}: it is done, or never was")


def _found(inspector: Inspector, states: Sequence[State], wanted: Wanted) -> Iterator[JobView]:
    check_queue(inspector, wanted.queue)
    for state in states:
        yield from search(inspector, state, wanted)


def _table(views: Sequence[JobView], now_ms: int) -> str:
    rows = [("id", "task", "queue", "state", "when", "attempt")]
    for view in views:
        message = view.message
        names = (one_line(message.task, 40), one_line(message.queue), view.state.value)
        attempt = view.failures + view.crashes + view.lost + 1
        rows.append((shown_id(message.id), *names, when(view, now_ms), str(attempt)))
    return aligned(rows, {5})
