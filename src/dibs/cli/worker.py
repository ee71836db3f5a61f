"""`dibs worker`: run the jobs of an app.

Owns: the order of a worker's start (the runners first: they import the app meanwhile), its options,
and starting anew when the app's files change.
Must never: import user code, unless told to by `--in-process`; touch a lease.
Called by: `dibs.cli.commands`; `work` also by the demo, whose workers have a bad line.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from dibs.cli.commands import examples
from dibs.cli.lines import Lines
from dibs.cli.stops import Stops
from dibs.clock import SystemClock
from dibs.errors import AppImportFailed, AppNotFound, OptionError, UserError
from dibs.events import Event, Observer
from dibs.runners.contract import Hello, Spawner
from dibs.worker.service import EXIT_DONE, Plan, Service, calm_collector, queues_of

if TYPE_CHECKING:
    from dibs.brokers.contract import Broker
    from dibs.cli.reload import Files
    from dibs.cli.terminal import Terminal

TICK_SECONDS = 1.0


class Wish(Struct, frozen=True):
    """What was asked for, beyond the service's own plan."""

    app: str
    url: str | None
    in_process: bool
    reload: bool


@click.command(
    short_help="Run the jobs of an app.",
    epilog=examples(
        "dibs worker photos:app                     the queues of the app's tasks, 50 slots",
        "dibs worker photos:app -c 200 -q mail,sms  two queues only",
        "dibs worker photos:app --drain             stop when nothing is ready",
        "dibs worker photos:app --reload            start anew when the code changes",
    ),
)
@click.argument("app")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="How many jobs run at a time, over all processes.",
)
@click.option("-q", "--queues", metavar="A,B", help="Queues to serve.  [default: the tasks' own]")
@click.option(
    "--processes",
    type=click.IntRange(1, 1_000),
    help="Processes that run the jobs.  [default: the cores]",
)
@click.option(
    "--drain", is_flag=True, help="Stop when nothing is ready; do not await the scheduled."
)
@click.option("--in-process", is_flag=True, help="Run jobs in threads here: for a debugger.")
@click.option("--reload", is_flag=True, help="Stop in order and start anew when a file changes.")
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running jobs may take after SIGTERM or Ctrl-C; a second one ends them now.",
)
@click.option("--url", help="The broker.  [default: the app's own, which may be DIBS_URL]")
def command(
    *,
    app: str,
    concurrency: int,
    queues: str | None,
    processes: int | None,
    drain: bool,
    in_process: bool,
    reload: bool,
    shutdown_timeout: float,
    url: str | None,
) -> int:
    """Run the jobs of APP, which is module:name, as in photos:app.

    Stop it with Ctrl-C or SIGTERM: it takes no more jobs and lets the running ones finish. Its
    lines go to stderr.
    """
    named = None if queues is None else _queue_names(queues)
    if not shutdown_timeout >= 0:
        raise OptionError(f"--shutdown-timeout {shutdown_timeout} is no number of seconds")
    if in_process and reload:
        raise OptionError("--reload needs runner processes: leave out --in-process")
    if in_process:
        processes = 1
    plan = Plan(concurrency, processes, named, drain, shutdown_timeout)
    wish = Wish(app, url, in_process, reload)
    files, code = work(wish, plan)
    if files is not None and files.changed is not None:
        files.start_anew()
    return code


def work(
    wish: Wish, plan: Plan, opens: "Callable[[str], Broker] | None" = None
) -> "tuple[Files | None, int]":
    """Run a worker to its end, on the broker that `opens` makes of the app's URL.

    Returns:
        The files that are watched, if the worker is to start anew when one changes, and the exit
        code.
    """
    observers: list[Observer] = []

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    write = Lines(sys.stderr.fileno())
    service = Service(_spawner(wish), plan, tell)
    stops = Stops(service, plan.shutdown_timeout, write)
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(service.close)
        cleaning.enter_context(stops.heard())
        since_ns = time.time_ns()
        service.start()
        # The runners import the app from here on: what this process imports now costs no time.
        from dibs.cli.broker import opened
        from dibs.cli.terminal import Terminal

        terminal = Terminal(write, SystemClock())
        observers.append(terminal)
        try:
            with stops.starting():
                hello = service.wait_for_app(wish.app)
                broker = (opens or opened)(hello.url)
                cleaning.callback(broker.close)
        except (AppImportFailed, AppNotFound) as exc:
            if not wish.reload:
                raise
            near = _wait_for_repair(wish.app, exc, service, write, since_ns)
            stops.end_if_asked()
            return near, EXIT_DONE
        files = _files(hello.files, since_ns) if wish.reload else None
        with _ticking(terminal):
            write(_banner(wish, plan, hello, broker))
            code = service.run(broker, hello, files)
        terminal.finish(_left(plan, hello, broker))
        return None if stops.asked else files, code


def _spawner(wish: Wish) -> Spawner:
    if wish.in_process:
        from dibs.loading import import_app
        from dibs.runners.inprocess import in_process_spawner

        app = import_app(wish.app)
        if wish.url is not None:
            app.redirect(wish.url)
        return in_process_spawner(app.url, app.tasks)
    from dibs.runners.processes import spawner

    calm_collector()
    return spawner(wish.app, wish.url)


def _banner(wish: Wish, plan: Plan, hello: Hello, broker: "Broker") -> str:
    from dibs.cli.banner import Start, banner

    queues = queues_of(plan, hello)
    shares = plan.shares()
    return banner(Start(wish.app, hello.tasks, queues, shares, wish.in_process, plan.drain), broker)


def _left(plan: Plan, hello: Hello, broker: "Broker") -> Iterable[str]:
    from dibs.cli.banner import left_in_paused

    return left_in_paused(queues_of(plan, hello), broker) if plan.drain else ()


def _queue_names(text: str) -> tuple[str, ...]:
    from dibs.brokers.contract import QUEUE_NAME

    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not QUEUE_NAME.fullmatch(name):
            raise OptionError(
                f"queue name {name!r} is not 1 to 60 of A-Z a-z 0-9 _ -; several are written with"
                " commas between, as in -q mail,sms"
            )
    return names


def _files(paths: list[str], since_ns: int) -> "Files":
    from dibs.cli.reload import Files

    return Files(paths, since_ns)


def _wait_for_repair(
    app: str, exc: UserError, service: Service, write: Lines, since_ns: int
) -> "Files":
    from dibs.cli.reload import files_near
    from dibs.text import printable

    write(f"dibs: {printable(str(exc))}\nwaiting for a file to change\n")
    files = files_near(app, since_ns)
    service.wait_for(files)
    return files


@contextlib.contextmanager
def _ticking(terminal: "Terminal") -> Iterator[None]:
    """Tick once a second while the terminal has something to wait for; an idle worker sleeps."""
    over = threading.Event()

    def tick() -> None:
        while not over.is_set():
            terminal.busy.wait()
            if not over.wait(TICK_SECONDS):
                terminal.tick()

    thread = threading.Thread(target=tick, name="dibs-terminal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        terminal.busy.set()
        thread.join()
