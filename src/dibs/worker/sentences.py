"""What a worker's events say to a person: each as one line, and what becomes of a failed job.

Must never: show a job's arguments or headers, which may be secrets; keep anything between two
events; or let a task's or an error's text steer a terminal.
Called by: `log.py`, and the terminal of `dibs worker`.
"""

from typing import assert_never

from dibs import events
from dibs.message import DeadLetter, Lease, Nack, Outcome
from dibs.producer.ids import as_text
from dibs.text import counted, duration, one_line, printable

OfJobs = events.JobFailed | events.LeaseLost | events.RunnerCondemned
OfTasks = events.TaskUnknown | events.TaskSlow
OfRunners = events.RunnerDied | events.RunnerNotStarted
OfWorker = (
    OfRunners | events.AlreadyDone | events.BrokerTrouble | events.BrokerBack | events.Stopping
)
Told = OfJobs | OfTasks | OfWorker
"""The events that are told one by one; the others are counted."""

COUNTED = {
    "done": "done",
    "failed": "failed",
    "crashed": "crashed",
    "dead": "dead",
    "released": "released",
    "late": "settled late",
}
"""What is counted of settlements, in the order in which it is told, and the word for each."""


def describe(event: Told) -> str:
    """Return what happened as one line."""
    match event:
        case events.JobFailed() | events.LeaseLost() | events.RunnerCondemned():
            return _of_job(event)
        case events.TaskUnknown() | events.TaskSlow():
            return _of_task(event)
        case _:
            return _of_worker(event)


def counts_of(event: events.Settled) -> str:
    """Return how many settlements of each outcome there were as one line, without the noughts."""
    numbers = {word: getattr(event, name) for name, word in COUNTED.items()}
    told = ", ".join(f"{number:,} {word}" for word, number in numbers.items() if number)
    return f"settled: {told or 'nothing'}"


def kind(event: Told) -> str:
    """Return what an event has in common with those that are counted together."""
    match event:
        case events.JobFailed(lease, error):
            return f"{one_line(lease.message.task, 60)} failed with {one_line(error.type, 60)}"
        case events.LeaseLost(lease):
            return f"lease of {one_line(lease.message.task, 60)} lost"
        case events.RunnerDied(_, status):
            return f"runner process died ({status})"
        case _:
            return type(event).__name__


def traceback_of(event: events.JobFailed) -> str:
    """Return the traceback of a failure, or its text where there is none, as indented lines."""
    error = event.error
    text = error.traceback.rstrip() or f"{error.type}: {error.message}"
    return "".join(f"    {line}\n" for line in printable(text).split("\n"))


def _of_job(event: OfJobs) -> str:
    lease = event.lease
    job = f"{one_line(lease.message.task)} {as_text(lease.message.id)}"
    match event:
        case events.JobFailed(_, _, outcome):
            return f"{job} failed (attempt {lease.attempt}): {_next(lease, outcome)}"
        case events.LeaseLost(_, ran):
            what = "what this run did, another does again" if ran else "it had not started here"
            return f"{job}: the lease is lost and the job is another worker's; {what}"
        case events.RunnerCondemned(pid, _):
            limit = duration(lease.message.timeout_ms / 1_000)
            return (
                f"{job} did not end after its timeout of {limit}: runner process {pid} takes no"
                " more jobs, and is replaced"
            )
        case _:
            assert_never(event)


def _next(lease: Lease, outcome: Outcome) -> str:
    """Say what becomes of a job whose run ended in an error."""
    message = lease.message
    match outcome:
        case Nack(delay_ms, _, "crash"):
            when = f"in {duration(delay_ms / 1_000)}" if delay_ms else "now"
            crashes = f"crash {lease.crashes + 1} of {message.max_crashes}"
            return f"again {when}, in a process of its own ({crashes})"
        case Nack(delay_ms):
            failures = f"failure {lease.failures + 1} of {message.max_attempts}"
            return f"retry in {duration(delay_ms / 1_000)} ({failures})"
        case DeadLetter(reason, _, charge):
            counters = {
                "max_attempts": lease.failures + (charge == "failure"),
                "max_crashes": lease.crashes + (charge == "crash"),
                "max_lost": lease.lost,
            }
            after = f" after {counters[reason]}" if reason in counters else ""
            return f"dead letter: {reason}{after}"
        case _:
            return "given back"


def _of_task(event: OfTasks) -> str:
    match event:
        case events.TaskUnknown(task, queue):
            return (
                f"queue {one_line(queue)} has jobs of task {one_line(task)}, which this app lacks:"
                " they are given back, for a worker that has it"
            )
        case events.TaskSlow(task, option, ran, limit, advised):
            how = "near" if ran < limit else "over"
            if option == "visibility_timeout":
                how = "over half"
            return (
                f"{one_line(task)} ran for {duration(ran)}, {how} its {option} of"
                f" {duration(limit)}: set {option}={advised} or more"
            )
        case _:
            assert_never(event)


def _of_worker(event: OfWorker) -> str:
    match event:
        case events.RunnerDied(pid, status, running, queued):
            return (
                f"runner process {pid} died ({status}): {counted(running, 'running job')} charged"
                f" a crash, {counted(queued, 'queued job')} given back"
            )
        case events.RunnerNotStarted(why, again):
            return (
                f"a runner process cannot be started: {one_line(why)}; again in {duration(again)}"
            )
        case events.AlreadyDone(jobs):
            return f"{counted(jobs, 'job')} not run: done before, by idempotency key"
        case events.BrokerTrouble(error, text, _):
            return f"the broker fails: {one_line(error)}: {one_line(text, 500)}; trying again"
        case events.BrokerBack(after):
            return f"the broker works again, after {duration(after)}"
        case events.Stopping(running, seconds):
            return (
                f"stopping: {counted(running, 'job')} held here, {duration(seconds)} to finish;"
                " stop again to end at once"
            )
        case _:
            assert_never(event)
