"""What type checkers make of an app's users: right calls pass, and wrong ones are errors.

Owns: the types that users see. `make types` has both checkers read this file; nothing runs it. An
`ignore` that is not needed is an error, so each one here says: this must be refused.
"""

import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from dibs import App, Job, Reject, Retry, Snooze, Task, once
from dibs.backoff import exponential, fixed, steps
from dibs.job import Status
from dibs.ledger import Entry

app = App("sqlite:///photos.db")


@app.task
def resize(path: str, width: int = 200) -> str:
    return f"{path} {width}"


@app.task(queue="web", visibility_timeout=timedelta(minutes=1), keep_result=0)
async def fetch(url: str, *, tries: int = 3) -> bytes:
    return b"%d" % tries + url.encode()


@app.task(runs_in="process", backoff=steps(1, timedelta(seconds=5), 60), retry_on=OSError)
def log(text: str, /) -> None: ...


@app.task(idempotency_key="charge-{order}", keep_key=timedelta(days=1))
async def charge(order: int, *, cents: int = 0) -> str:
    return f"{order} {cents}"


async def results_are_typed() -> None:
    assert_type(charge.enqueue(17, cents=5), Job[str])
    assert_type(resize("a.jpg"), str)
    assert_type(await assert_type(fetch("url"), Coroutine[Any, Any, bytes]), bytes)
    assert_type(resize.enqueue("a.jpg", width=64), Job[str])
    assert_type(fetch.enqueue("url", tries=1), Job[bytes])
    assert_type(log.enqueue("a"), Job[None])
    assert_type(await resize.aenqueue("a.jpg"), Job[str])
    assert_type(await fetch.aenqueue("url"), Job[bytes])
    assert_type(resize.options(delay=5).enqueue("a.jpg", 64), Job[str])
    assert_type(await fetch.options(priority=9).options(queue="x").aenqueue("url"), Job[bytes])
    assert_type(app.enqueue_many(resize.bind(path) for path in ("a", "b")), int)


async def results_are_read_as_they_are_declared(id: str) -> None:
    assert_type(resize.enqueue("a.jpg").result(), str)
    assert_type(resize.enqueue("a.jpg").result(timeout=1.5), str)
    assert_type(await resize.enqueue("a.jpg").aresult(5), str)
    assert_type(fetch.enqueue("url").result(), bytes)
    assert_type(await fetch.options(delay=1).enqueue("url").aresult(), bytes)
    assert_type(resize.job(id), Job[str])
    assert_type(fetch.job(id).result(), bytes)
    resize.enqueue("a.jpg").wait(5)
    assert_type(resize.job(id).status(), Status)


def wrong_waits_are_refused() -> None:
    resize.enqueue("a.jpg").result("soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    number: int = resize.enqueue("a.jpg").result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(number)
    resize.job(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def what_options_take(moment: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
    resize.options(delay=1.5, run_at=None, priority=1, queue="x", unique_key="y", max_attempts=2)
    resize.options(run_at=moment, timeout=timedelta(1), visibility_timeout=30)


def what_failures_take() -> None:
    app.task(backoff=exponential(first=0.5, longest=timedelta(hours=1)))
    app.task(backoff=fixed(5), retry_on=(OSError, ValueError), give_up_on=(SystemExit,))
    print(Retry(), Retry("closed"), Retry("closed", after=timedelta(1)), Snooze(2.5), Reject("no"))


def wrong_failures_are_refused() -> None:
    app.task(retry_on="OSError")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(retry_on=(OSError, 5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.task(give_up_on=int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.task(give_up_on=[OSError])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(backoff=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(backoff=[1, 5])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(backoff=exponential)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    exponential(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    steps([1, 5])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Snooze("1 min")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Snooze()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Reject()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def wrong_arguments_are_refused() -> None:
    resize(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.enqueue("a", widht=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.enqueue("a", 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.bind("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.options(delay=5).enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetch.enqueue("url", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    log.enqueue(text="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def wrong_arguments_are_refused_of_coroutines_too() -> None:
    await fetch.aenqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await resize.aenqueue(path=b"a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_options_are_refused() -> None:
    resize.options(delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.options(prio=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.task(delay=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    app.task(runs_in="thread")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def wrong_keys_are_refused() -> None:
    app.task(idempotency_key=lambda order: f"{order}")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(idempotency_key=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(keep_key="a day")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    charge.enqueue("17")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge.options(idempotency_key="{order}")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_call_is_not_a_bound_call() -> None:
    app.enqueue_many([resize("a")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    app.enqueue_many([resize.enqueue("a")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def results_are_not_of_another_type() -> None:
    job: Job[int] = resize.enqueue("a")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(job)


def tasks_are_passed_around(task: Task[[str], object]) -> None:
    task.enqueue("a")
    task.enqueue(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def once_gives_what_is_true_or_false(connection: sqlite3.Connection) -> Any:
    with once(connection, "key") as first:
        if first:
            first.record({"receipt": 17})
        elif first == False:  # noqa: E712 - what is promised
            assert_type(first, Entry)
    with once(connection, 17) as first:  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return first.result


tasks_are_passed_around(log)
by_name: Mapping[str, Task[..., Any]] = app.tasks
plain: Callable[[str], str] = resize
coroutine: Callable[[str], Coroutine[Any, Any, bytes]] = fetch
