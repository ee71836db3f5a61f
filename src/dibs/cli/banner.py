"""What a worker says when it starts: where it works, how durably, on what, and what looks wrong.

Must never: show a secret of a URL, or text of the app that could steer the terminal.
Called by: `worker.py`; its `place` by whoever says where a broker is.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from dibs import __version__
from dibs.brokers.contract import Broker
from dibs.message import TaskInfo
from dibs.text import one_line

TASKS_SHOWN = 20


class Start(Struct, frozen=True):
    """A worker as it starts. `queues` are those it serves, `shares` the slots of each process."""

    app: str
    tasks: Sequence[TaskInfo]
    queues: Sequence[str]
    shares: Sequence[int]
    in_process: bool
    drain: bool


def banner(start: Start, broker: Broker) -> str:
    """Return the lines of a worker's start, its warnings last."""
    lines = [f"dibs {__version__}, worker for {one_line(start.app)}", *_facts(start, broker)]
    lines += [f"warning: {text}" for text in _warnings(start)]
    return "".join(f"{line}\n" for line in lines)


def place(broker: Broker) -> str:
    """Return where a broker is: a file's full path, or a URL without its secrets."""
    return one_line(broker.url.removeprefix("sqlite:///"), 500)


def _facts(start: Start, broker: Broker) -> Iterator[str]:
    capabilities = broker.capabilities
    created = " (was not there: created)" if broker.created else ""
    yield f"  broker   {place(broker)}{created}"
    yield f"  durable  {capabilities.durability}, {capabilities.durability_note}"
    yield f"  queues   {', '.join(start.queues)}"
    for number, task in enumerate(start.tasks[:TASKS_SHOWN]):
        label = "" if number else "tasks"
        yield f"  {label:8} {one_line(task.name)} ({task.kind}, queue {task.queue})"
    if len(start.tasks) > TASKS_SHOWN:
        yield f"  {'':8} and {len(start.tasks) - TASKS_SHOWN:,} more"
    yield f"  slots    {_slots(start)}"
    if start.drain:
        yield "  drain    until nothing is ready; what is scheduled is not awaited"


def _slots(start: Start) -> str:
    slots = f"{sum(start.shares):,}"
    if start.in_process:
        return (
            f"{slots}, in this very process: for debugging. A task that blocks, exits or crashes"
            " takes the worker with it"
        )
    count = len(start.shares)
    return f"{slots} in {count} process{'' if count == 1 else 'es'}"


def _warnings(start: Start) -> Iterator[str]:
    if not start.tasks:
        yield (
            f"{one_line(start.app)} has no tasks: decorate functions with `@app.task`, in this"
            " module or in one that it imports"
        )
        return
    served = {task.queue for task in start.tasks}
    for queue in start.queues:
        if queue not in served:
            yield (
                f"no task of the app is in queue {queue}; there are tasks in"
                f" {', '.join(sorted(served))}"
            )
