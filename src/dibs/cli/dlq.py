"""`dibs dlq`: dead letters, to list, show, send back and discard.

Owns: what is said before dead letters are moved, and after.
Must never: move one that was not counted in the question, or hold more than ids and one page.
Called by: `dibs.cli.commands`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import click
from msgspec import Struct

from dibs.brokers.contract import Duplicate, Gone, Inspector
from dibs.cli.banner import place
from dibs.cli.commands import Group, examples
from dibs.cli.filters import Wanted, matches
from dibs.cli.selecting import (
    agreed,
    check_queue,
    filter_options,
    json_option,
    now,
    opened,
    search,
    url_option,
    wanted_of,
)
from dibs.cli.tables import aligned
from dibs.cli.views import as_data, as_json, page, shown_id, when, why
from dibs.errors import OptionError, UserError
from dibs.message import JobView
from dibs.states import State
from dibs.text import counted, one_line

EXIT_NOT_ALL = 1
MOST = 100_000
"""Ids held at a time."""
STEP = 500
"""Dead letters moved in one transaction, for some 10 ms in which nobody else writes."""
KINDS_SHOWN = 10


class Chosen(Struct, frozen=True):
    """The dead letters that a command means, their kinds, and what was named and is none.

    `more`: there are others like them, which the limit leaves where they are.
    """

    ids: list[bytes]
    kinds: Counter[tuple[str, str]]
    missing: list[bytes]
    more: bool


class Report(Struct, frozen=True):
    """What became of them. `refused`: each beside the live job that has its unique key."""

    moved: int
    refused: list[tuple[bytes, bytes]]
    missing: list[bytes]


@click.group(
    cls=Group,
    short_help="List, show, send back and discard dead letters.",
    epilog=examples(
        "dibs dlq list photos:app --task resize --newer 2h",
        "dibs dlq show photos:app 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d",
        "dibs dlq redrive photos:app --error TimeoutError --dry-run",
        "dibs dlq discard photos:app --older 1w --yes",
    ),
)
def command() -> None:
    """Dead letters: jobs that were given up on, kept with the reason.

    Redriving one sends it back to its queue under the same id, with fresh budgets.
    """


@command.command(
    "list",
    short_help="List dead letters, newest first.",
    epilog=examples(
        "dibs dlq list photos:app",
        "dibs dlq list --url sqlite:///photos.db --error TimeoutError --newer 2h",
        "dibs dlq list photos:app --arg user=42 --json",
    ),
)
@click.argument("words", nargs=-1, metavar="[APP]")
@filter_options
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@json_option
@url_option
def list_(
    words: tuple[str, ...], limit: int, in_json: bool, url: str | None, **filters: Any
) -> None:
    """List the dead letters of the broker of APP, or of `--url`, or of DIBS_URL."""
    now_ms = now()
    wanted = wanted_of(now_ms, **filters)
    with opened(words, url) as (broker, ids):
        found = list(islice(_found(broker.inspector(), ids, wanted), limit + 1))
        where = place(broker)
    shown = found[:limit]
    if in_json:
        more = len(found) > limit
        click.echo(as_json({"dead_letters": [as_data(view) for view in shown], "more": more}))
    elif shown:
        click.echo(_table(shown, now_ms), nl=False)
        if len(found) > limit:
            click.echo(f"... and more: the newest {limit:,} are shown; see --limit")
    else:
        click.echo(_none(wanted, where))


@command.command(
    short_help="Show all that is known of a dead letter.",
    epilog=examples(
        "dibs dlq show photos:app 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d",
        "dibs dlq show 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d --json | jq .arguments",
    ),
)
@click.argument("words", nargs=-1, required=True, metavar="[APP] ID")
@json_option
@url_option
def show(words: tuple[str, ...], in_json: bool, url: str | None) -> None:
    """Show its arguments, counters, reason, error and traceback."""
    with opened(words, url) as (broker, ids):
        if len(ids) != 1:
            raise UserError("name one dead letter by its id, as `dibs dlq list` shows it")
        view = broker.inspector().job(ids[0])
    if view is None:
        raise UserError(f"there is no dead letter {shown_id(ids[0])}")
    if view.state is not State.DEAD:
        raise UserError(f"{shown_id(ids[0])} is {view.state.value}, not dead: see `dibs jobs show`")
    click.echo(as_json(as_data(view)) + "\n" if in_json else page(view, now()), nl=False)


def acting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what moves dead letters has in common."""
    options: tuple[Callable[..., Any], ...] = (
        click.argument("words", nargs=-1, metavar="[APP] [ID]..."),
        filter_options,
        click.option(
            "--limit",
            type=click.IntRange(1, MOST),
            default=MOST,
            show_default=True,
            help="No more than so many, the newest.",
        ),
        click.option(
            "--all",
            "everything",
            is_flag=True,
            help="Mean every dead letter: to be said where there are neither ids nor filters.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        json_option,
        url_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command(
    short_help="Send dead letters back to their queues.",
    epilog=examples(
        "dibs dlq redrive photos:app 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d",
        "dibs dlq redrive photos:app --task resize --error TimeoutError --dry-run",
        "dibs dlq redrive photos:app --queue photos --newer 2h --limit 10 --yes",
        "dibs dlq redrive photos:app --all --limit 10",
    ),
)
@acting_options
def redrive(**given: Any) -> int:
    """Send dead letters back: those named by ID, or that the filters let through, or all.

    Each is ready again under its id, with no failures, crashes or losses counted. One whose unique
    key a live job has by now stays where it is; the exit code is then 1.
    """
    return _act("redriven", "Send back {}?", _redriven, **given)


@command.command(
    short_help="Remove dead letters for good.",
    epilog=examples(
        "dibs dlq discard photos:app 0190a5d8-1c3e-7b7f-8000-3f1f5a6b7c8d",
        "dibs dlq discard photos:app --older 4w --dry-run",
        "dibs dlq discard photos:app --task resize --arg path=gone.jpg --yes",
    ),
)
@acting_options
def discard(**given: Any) -> int:
    """Remove dead letters for good: those named by ID, or that the filters let through, or all."""
    return _act("discarded", "Remove {} for good?", _discarded, **given)


def _act(
    done: str,
    question: str,
    move: Callable[[Inspector, Sequence[bytes]], Report],
    *,
    words: tuple[str, ...],
    limit: int,
    everything: bool,
    dry_run: bool,
    yes: bool,
    in_json: bool,
    url: str | None,
    **filters: Any,
) -> int:
    """Count, ask, move and report; return the exit code."""
    wanted = wanted_of(now(), **filters)
    with opened(words, url) as (broker, ids):
        _check_said(ids, wanted, everything)
        inspector, where = broker.inspector(), place(broker)
        chosen = _chosen(inspector, ids, wanted, limit)
        matched = len(chosen.ids)
        report = Report(0, [], chosen.missing)
        if matched and not (in_json and (yes or dry_run)):
            click.echo(_summary(chosen, where), nl=False, err=in_json)
        if matched and not dry_run:
            if not agreed(question.format(counted(matched, "dead letter")), yes):
                click.echo("nothing was changed", err=True)
                return EXIT_NOT_ALL
            moved = move(inspector, chosen.ids)
            report = Report(moved.moved, moved.refused, [*chosen.missing, *moved.missing])
    if in_json:
        refused = [{"id": shown_id(id), "holder": shown_id(by)} for id, by in report.refused]
        missing = [shown_id(id) for id in report.missing]
        data = {"matched": matched, "more": chosen.more, done: report.moved, "dry_run": dry_run}
        click.echo(as_json({**data, "refused": refused, "missing": missing}))
    else:
        _tell(report, done, None if matched else _none(wanted, where), dry_run)
    return EXIT_NOT_ALL if report.refused or report.missing else 0


def _check_said(ids: list[bytes], wanted: Wanted, everything: bool) -> None:
    """Check that it is said which are meant: a list of ids that came out empty must not mean all.

    Raises:
        OptionError: there is nothing that says it, or `--all` beside what says less.
    """
    if everything and (ids or wanted != Wanted()):
        less = "ids" if ids else "filters"
        raise OptionError(
            f"`--all` means every dead letter, not those of the {less}: leave one out"
        )
    if not everything and not ids and wanted == Wanted():
        raise OptionError("which dead letters? Name ids or filters, or say `--all`")


def _tell(report: Report, done: str, none: str | None, dry_run: bool) -> None:
    for id, holder in report.refused:
        why_not = f"the live job {shown_id(holder)} has its unique key"
        click.echo(f"{shown_id(id)} was not {done}: {why_not}", err=True)
    for id in report.missing:
        click.echo(f"{shown_id(id)} was not {done}: it is no dead letter", err=True)
    if dry_run:
        click.echo(none or f"nothing was {done}: this was a dry run")
    elif none is None:
        click.echo(f"{counted(report.moved, 'dead letter')} {done}")
    elif not report.missing:
        click.echo(none)


def _chosen(inspector: Inspector, ids: list[bytes], wanted: Wanted, limit: int) -> Chosen:
    """Find what is meant, and keep no more of it than its id and its kind."""
    missing = [id for id in ids if _dead(inspector, id) is None]
    found = _found(inspector, ids, wanted)
    chosen: list[bytes] = []
    kinds: Counter[tuple[str, str]] = Counter()
    for view in islice(found, limit):
        chosen.append(view.message.id)
        kinds[view.message.task, view.reason or ""] += 1
    return Chosen(chosen, kinds, missing, more=next(found, None) is not None)


def _found(inspector: Inspector, ids: list[bytes], wanted: Wanted) -> Iterator[JobView]:
    check_queue(inspector, wanted.queue)
    if not ids:
        yield from search(inspector, State.DEAD, wanted)
    for id in ids:
        view = _dead(inspector, id)
        if view is not None and matches(view, wanted):
            yield view


def _dead(inspector: Inspector, id: bytes) -> JobView | None:
    view = inspector.job(id)
    return view if view is not None and view.state is State.DEAD else None


def _redriven(inspector: Inspector, ids: Sequence[bytes]) -> Report:
    refused: list[tuple[bytes, bytes]] = []
    missing: list[bytes] = []
    for start in range(0, len(ids), STEP):
        step = ids[start : start + STEP]
        for id, answer in zip(step, inspector.redrive(step), strict=True):
            if isinstance(answer, Duplicate):
                refused.append((id, answer.id))
            elif isinstance(answer, Gone):
                missing.append(id)
    return Report(len(ids) - len(refused) - len(missing), refused, missing)


def _discarded(inspector: Inspector, ids: Sequence[bytes]) -> Report:
    steps = [ids[start : start + STEP] for start in range(0, len(ids), STEP)]
    return Report(sum(map(inspector.discard, steps)), [], [])


def _summary(chosen: Chosen, where: str) -> str:
    kinds = chosen.kinds.most_common(KINDS_SHOWN)
    rows = [[f"  {count:,}", one_line(task), reason] for (task, reason), count in kinds]
    more = len(chosen.kinds) - len(kinds)
    lines = [f"{counted(len(chosen.ids), 'dead letter')} in {where}:\n", aligned(rows, {0})]
    lines.append(f"and {counted(more, 'more kind')}\n" if more else "")
    if chosen.more:
        lines.append(f"... and more: the first {len(chosen.ids):,} are meant; see --limit\n")
    return "".join(lines)


def _table(views: Sequence[JobView], now_ms: int) -> str:
    rows = [("id", "task", "queue", "died", "why")]
    for view in views:
        message = view.message
        names = (one_line(message.task, 40), one_line(message.queue))
        rows.append((shown_id(message.id), *names, when(view, now_ms), why(view)))
    return aligned(rows)


def _none(wanted: Wanted, where: str) -> str:
    return f"no dead letters in {where}" + (" are like that" if wanted != Wanted() else "")
