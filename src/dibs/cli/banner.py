"""What a worker says when it starts: where it works, how durably, on what, and what looks wrong.

Owns: also what it says of paused queues, which a drain leaves as they are.
Must never: show a secret of a URL, or text of the app that could steer the terminal.
Called by: `worker.py`; its `place` by whoever says where a broker is.
"""

import contextlib
from collections.abc import Iterator, Sequence

from msgspec import Struct

from dibs import __version__
from dibs.brokers.contract import Broker
from dibs.errors import DibsError
from dibs.message import QueueCounts, TaskInfo
from dibs.text import counted, one_line

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
    counts = _counts(start.queues, broker)
    lines += [f"warning: {text}" for text in _warnings(start, counts)]
    lines += [f"warning: {text}" for text in _paused_now(counts)]
    return "".join(f"{line}\n" for line in lines)


def left_in_paused(queues: Sequence[str], broker: Broker) -> Iterator[str]:
    """Yield what to say after a drain of the jobs that wait in paused queues."""
    for queue in _counts(queues, broker):
        if queue.paused and queue.ready != 0:
            jobs = "jobs wait" if queue.ready is None else f"{counted(queue.ready, 'job')} left"
            yield f"{jobs} in queue {queue.name}, which is paused: {_resume(queue.name)}"


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


def _paused_now(counts: Sequence[QueueCounts]) -> Iterator[str]:
    for queue in counts:
        if queue.paused:
            yield f"queue {queue.name} is paused, and its jobs wait: {_resume(queue.name)}"


def _counts(queues: Sequence[str], broker: Broker) -> list[QueueCounts]:
    with contextlib.suppress(DibsError):  # whether it can work, the worker finds out by itself
        return [queue for queue in broker.inspector().queues() if queue.name in queues]
    return []


def _resume(queue: str) -> str:
    return f"`dibs queues resume {queue}` ends that"


def _warnings(start: Start, counts: Sequence[QueueCounts]) -> Iterator[str]:
    if not start.tasks:
        yield (
            f"{one_line(start.app)} has no tasks: decorate functions with `@app.task`, in this"
            " module or in one that it imports"
        )
        return
    served = {task.queue for task in start.tasks}
    filled = {queue.name for queue in counts if queue.ready or queue.scheduled or queue.in_flight}
    for queue in start.queues:
        if queue not in served | filled:
            yield (
                f"no task of the app is in queue {queue}, and no job; there are tasks in"
                f" {', '.join(sorted(served))}"
            )
