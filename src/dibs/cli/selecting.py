"""Which jobs a command means, found in the broker, and the question before it moves them.

Owns: the options that filter, how ids are told from the app, and that a search holds one page.
Must never: change anything.
Called by: `jobs.py`, `dlq.py`, `queues.py`, `doctor.py`, `migrate.py`, `ledger.py`.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from msgspec import Raw

from dibs.brokers.contract import Broker, Inspector
from dibs.cli import arguments
from dibs.cli.arguments import named_values
from dibs.cli.broker import opened_to_look, url_of
from dibs.cli.filters import Wanted, age_ms, canonical, job_id, matches
from dibs.clock import SystemClock
from dibs.errors import OptionError, UserError
from dibs.message import JobView
from dibs.spelling import did_you_mean
from dibs.states import State

PAGE = 100
"""Jobs held at a time; each may be as long as a payload can be."""

url_option = click.option(
    "--url", help="The broker.  [default: the app's own, else DIBS_URL, else ./dibs.db]"
)
json_option = click.option("--json", "in_json", is_flag=True, help="Print JSON.")


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the filters of dead letters."""
    options: tuple[Callable[..., Any], ...] = (
        click.option("--queue", help="Only of this queue."),
        click.option("--task", help="Only of this task."),
        click.option(
            "--error",
            metavar="TEXT",
            help="TEXT is in the reason, the error's type or message, in the same case.",
        ),
        click.option("--older", metavar="AGE", help="Given up longer ago: 90s, 15m, 2h, 1d, 1w."),
        click.option("--newer", metavar="AGE", help="Given up since then."),
        click.option(
            "--arg",
            "args",
            multiple=True,
            metavar="NAME=VALUE",
            help=f"The job has this argument. {arguments.HELP}",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def wanted_of(
    now_ms: int,
    *,
    queue: str | None,
    task: str | None,
    error: str | None,
    older: str | None,
    newer: str | None,
    args: tuple[str, ...],
) -> Wanted:
    """Return what the filter options say, at `now_ms` of the wall clock.

    An empty `--error`, as of a variable that is not set, lets all through, and so is no filter.

    Raises:
        OptionError, ArgumentError: one of them cannot be read.
    """
    old, new = age_ms("--older", older), age_ms("--newer", newer)
    return Wanted(
        queue=queue,
        task=task,
        error=error or None,
        until_ms=None if old is None else now_ms - old,
        after_ms=None if new is None else now_ms - new,
        arguments={name: _canonical(name, raw) for name, raw in named_values(args).items()},
    )


def _canonical(name: str, raw: Raw) -> str:
    try:
        return canonical(bytes(raw))
    except RecursionError as exc:
        raise arguments.nested_too_deeply(name) from exc


def place_and_ids(words: Sequence[str], url: str | None) -> tuple[str, list[bytes]]:
    """Tell the app from the ids among `words`; return the broker's URL and the ids, once each.

    Raises:
        OptionError: one is neither an id nor of the form module:app, or there are two apps.
        AppNotFound, AppImportFailed: as the import of the app says.
    """
    ids = {word: found for word in words if (found := job_id(word)) is not None}
    apps = [word for word in words if word not in ids]
    for word in apps:
        # A shortened id that is passed over would leave a command without ids: all are meant then.
        if ":" not in word:
            raise OptionError(f"{word!r} is neither a job's id nor an app, as in `photos:app`")
    if len(apps) > 1:
        raise OptionError(f"{apps[0]!r} and {apps[1]!r} are two apps: name one")
    return url_of(apps[0] if apps else None, url), list(dict.fromkeys(ids.values()))


def place_without_ids(words: Sequence[str], url: str | None) -> str:
    """Return the broker's URL, for a command that means no single job.

    Raises:
        OptionError: there is an id. Passed over, a purge that was meant for one job would take all.
        AppNotFound, AppImportFailed: as the import of the app says.
    """
    found, ids = place_and_ids(words, url)
    if ids:
        raise OptionError("this command means no single job: leave out the id")
    return found


def is_named(words: Sequence[str], url: str | None) -> bool:
    """Say whether the broker is named, by `url` or by an app among `words`."""
    return url is not None or any(job_id(word) is None for word in words)


def queue_first(queue: str, words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the queue, and the other words: an app, which has a colon, may stand before it.

    Raises:
        OptionError: there is only an app.
    """
    if ":" not in queue:
        return queue, words
    if not words or ":" in words[0]:
        raise OptionError(f"{queue!r} is an app: name a queue, as in `photos {queue}`")
    return words[0], [queue, *words[1:]]


@contextlib.contextmanager
def opened(words: Sequence[str], url: str | None) -> Iterator[tuple[Broker, list[bytes]]]:
    """Open the broker that is meant, and give it with the ids among `words`."""
    found, ids = place_and_ids(words, url)
    with contextlib.closing(opened_to_look(found, named=is_named(words, url))) as broker:
        yield broker, ids


@contextlib.contextmanager
def opened_without_ids(words: Sequence[str], url: str | None) -> Iterator[Broker]:
    """Open the broker that is meant, for a command that means no single job."""
    found = place_without_ids(words, url)
    with contextlib.closing(opened_to_look(found, named=is_named(words, url))) as broker:
        yield broker


def now() -> int:
    """Return the wall clock in milliseconds, by which ages are told."""
    return SystemClock().wall_ms()


def search(inspector: Inspector, state: State, wanted: Wanted) -> Iterator[JobView]:
    """Yield the jobs in a state that are as wanted, in their order."""
    after: str | None = None
    while True:
        page = inspector.jobs(wanted.queue, state, PAGE, after)
        yield from (view for view in page.jobs if matches(view, wanted))
        after = page.next
        if after is None:
            return


def check_queue(inspector: Inspector, name: str | None) -> None:
    """Check that there is a queue of that name, if one is named.

    Raises:
        UserError: there is none; the text lists the nearest names.
    """
    known = [] if name is None else [queue.name for queue in inspector.queues()]
    if name is not None and name not in known:
        raise UserError(f"there is no queue {name!r}{did_you_mean(name, known)}")


def agreed(question: str, yes: bool) -> bool:
    """Ask before something is moved, unless `--yes` has answered.

    Raises:
        UserError: there is no terminal, and so nobody to ask.
    """
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(
            f"{question} There is no terminal to ask at: say --yes. Nothing was changed"
        )
    return click.confirm(question, err=True)
