"""An app: its tasks, its address, and what is enqueued through it."""

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

import dibs
from dibs import App
from dibs.brokers.contract import Broker
from dibs.brokers.memory import store
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.errors import (
    ArgumentError,
    BrokerUnavailable,
    EnqueueWhileImporting,
    JobFailed,
    OptionError,
    PayloadTooLarge,
    TaskNotFound,
    UrlError,
)
from dibs.message import Error, Message
from dibs.producer.producer import importing


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(f"sqlite:///{tmp_path}/app.db")
    yield app
    app.close()


class Stopped(SystemClock):
    """A wall clock that stands still."""

    def wall_ms(self) -> int:
        return 1_000_000


def broker_of(app: App) -> Broker:
    return open_broker(app.url, worker_id=bytes(16), clock=SystemClock())


def stored(app: App, queue: str = "default") -> list[Message]:
    """What lies ready in a queue, in the order in which workers would get it."""
    broker = broker_of(app)
    try:
        return [lease.message for lease in broker.claim([queue], 10_000).leases]
    finally:
        broker.close()


def resize(path: str, width: int = 200) -> str:
    return f"{path} {width}"


def test_what_is_enqueued_is_stored_with_its_tasks_options(app: App) -> None:
    task = app.task(queue="photos", max_attempts=7, timeout=9, visibility_timeout=8)(resize)
    job = task.enqueue("a.jpg", width=64)
    (message,) = stored(app, "photos")
    assert message == Message(
        job.key,
        "photos",
        "resize",
        b'{"path":"a.jpg","width":64}',
        visibility_timeout_ms=8_000,
        timeout_ms=9_000,
        max_attempts=7,
    )
    assert (job.task, job.queue, job.duplicate) == ("resize", "photos", False)
    assert job.id in repr(job)
    assert job.id.replace("-", "") == job.key.hex()


def test_options_are_of_one_call_and_do_not_touch_the_task(app: App) -> None:
    task = app.task(resize)
    urgent = task.options(priority=9).options(queue="other", max_attempts=1)
    task.enqueue("plain")
    assert urgent.enqueue("urgent").queue == "other"
    (plain,), (other,) = stored(app), stored(app, "other")
    assert (plain.priority, plain.max_attempts) == (0, 5)
    assert (other.priority, other.max_attempts) == (9, 1)


def test_a_delay_counts_from_the_enqueueing_and_run_at_is_a_moment() -> None:
    app = App("memory://delays", clock=Stopped())
    task = app.task(resize)
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    calls = [
        task.options(delay=timedelta(seconds=2)).bind("a"),
        task.options(run_at=moment).bind("b"),
        task.bind("c"),
    ]
    made = [call.delivery.around(500)[1][0] for call in calls]
    assert made == [2_500, 1_893_456_000_000, 0]
    task.options(delay=2).enqueue("a")
    assert broker_of(app).claim(["default"], 9).next_in is not None


def test_a_unique_key_answers_with_the_first_job(app: App) -> None:
    task = app.task(resize)
    once = task.options(unique_key="a.jpg")
    first, second = once.enqueue("a.jpg"), once.enqueue("a.jpg")
    assert second == replace(first, duplicate=True)
    assert "it was there already" in repr(second)
    assert app.enqueue_many([once.bind("a.jpg"), task.bind("a.jpg")]) == 1


def test_wrong_arguments_store_nothing(app: App) -> None:
    task = app.task(resize)
    with pytest.raises(ArgumentError, match="no parameter `widht`; did you mean `width`"):
        task.enqueue("a.jpg", widht=1)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="parameter `path` is missing"):
        asyncio.run(task.aenqueue())  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="expected `int`, got `str`"):
        task.bind("a.jpg", width="1")  # type: ignore[arg-type]
    task.enqueue("good")
    assert len(stored(app)) == 1


def test_a_payload_over_the_limit_is_refused_with_its_size(app: App) -> None:
    task = app.task(resize)
    with pytest.raises(PayloadTooLarge, match=r"arguments take 1,048,587 bytes, and .* store the"):
        task.enqueue("x" * (1 << 20))
    with pytest.raises(PayloadTooLarge, match="`resize` was not enqueued"):
        asyncio.run(task.aenqueue("x" * (1 << 20)))
    with pytest.raises(PayloadTooLarge, match="; 2 jobs stored before that"):
        app.enqueue_many(task.bind(path) for path in ("a", "b", "x" * (1 << 20), "c"))
    assert [message.args for message in stored(app)] == [b'{"path":"a"}', b'{"path":"b"}']


def test_many_are_stored_in_order_from_any_iterable(app: App) -> None:
    task = app.task(resize)
    assert app.enqueue_many([]) == 0
    assert app.enqueue_many([task.bind("first")]) == 1
    assert app.enqueue_many(task.bind(str(n)) for n in range(3_500)) == 3_500
    assert [m.args for m in stored(app)][1:] == [b'{"path":"%d"}' % n for n in range(3_500)]


def test_what_is_no_bound_call_is_named(app: App) -> None:
    with pytest.raises(ArgumentError, match=r"takes calls made by .*, not `int`: was the task"):
        app.enqueue_many([5])  # type: ignore[list-item]


def test_an_error_in_many_stops_and_says_how_many_are_stored(app: App) -> None:
    task = app.task(resize)

    def calls():
        for n in range(2_500):
            yield task.bind(str(n))
        yield task.bind(5)  # type: ignore[arg-type]

    with pytest.raises(ArgumentError, match="got `int`") as refused:
        app.enqueue_many(calls())
    assert refused.value.__notes__ == ["2,500 jobs stored before that"]

    assert len(stored(app)) == 2_500


@pytest.mark.parametrize("before", [0, 3, 2_500])
def test_a_call_of_another_app_is_refused_and_what_was_read_before_is_stored(
    app: App, before: int
) -> None:
    task, other = app.task(resize), App("memory://theirs").task(name="theirs")(resize)

    def calls():
        for n in range(before):
            yield task.bind(str(n))
        yield other.bind("theirs")
        yield task.bind("after")

    with pytest.raises(ArgumentError, match="<FunctionTask theirs> is of another app") as refused:
        app.enqueue_many(calls())
    assert refused.value.__notes__ == [f"{before:,} jobs stored before that"]
    assert len(stored(app)) == before


@pytest.mark.parametrize(
    "mine", [ZeroDivisionError("mine"), JobFailed("mine", "max_attempts", Error("OSError", "x"))]
)
def test_an_exception_of_the_callers_own_stays_what_it_is(app: App, mine: Exception) -> None:
    task = app.task(resize)

    def broken():
        yield task.bind("one")
        raise mine

    with pytest.raises(type(mine)) as caught:
        app.enqueue_many(broken())
    assert caught.value is mine
    assert mine.__notes__ == ["1 job stored before that"]
    assert len(stored(app)) == 1


def test_a_bound_call_is_a_job_each_time_that_it_is_enqueued(app: App) -> None:
    call = app.task(resize).bind("a")
    assert app.enqueue_many([call, call]) == 2


def test_tasks_are_found_by_name(app: App) -> None:
    task = app.task(resize)
    assert app.find("resize") is app.tasks["resize"] is task
    with pytest.raises(TaskNotFound, match="no task `resise`; did you mean `resize`"):
        app.find("resise")
    with pytest.raises(TaskNotFound, match="; there is none"):
        App().find("resize")
    with pytest.raises(TypeError):
        app.tasks["other"] = task  # type: ignore[index]


def test_nothing_is_opened_before_a_job_is_enqueued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIBS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    app = App()
    task = app.task(resize)
    task.bind("a")
    assert list(tmp_path.iterdir()) == []
    task.enqueue("a")
    assert app.url == f"sqlite:///{tmp_path}/dibs.db"
    assert (tmp_path / "dibs.db").exists()
    app.close()


def test_the_url_is_given_or_of_the_environment_and_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIBS_URL", "sqlite:///env.db")
    monkeypatch.chdir(tmp_path)
    app, other = App(), App("memory://given")
    assert app.url == f"sqlite:///{tmp_path}/env.db"
    monkeypatch.setenv("DIBS_URL", "memory://later")
    monkeypatch.chdir("/")
    assert app.url == f"sqlite:///{tmp_path}/env.db"
    assert other.url == "memory://given"


def test_a_wrong_address_is_told_when_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(UrlError, match="there is no broker `kafka`"):
        App("kafka://localhost").task(resize).enqueue("a")
    missing = App(f"sqlite:///{tmp_path}/no/such/dir/a.db").task(resize)
    with pytest.raises(BrokerUnavailable, match="no/such/dir"):
        missing.enqueue("a")
    with pytest.raises(BrokerUnavailable):
        asyncio.run(missing.aenqueue("a"))
    app = App("")
    calls = [app.task(resize).bind("a")]
    with pytest.raises(UrlError, match="0 jobs stored before"):
        app.enqueue_many(calls)


def test_closing_is_harmless_and_enqueueing_opens_again(app: App) -> None:
    task = app.task(resize)
    app.close()
    task.enqueue("a")
    asyncio.run(task.aenqueue("b"))
    app.close()
    app.close()
    assert app.enqueue_many([task.bind("c")]) == 1
    assert len(stored(app)) == 3


def test_enqueueing_while_dibs_imports_names_the_line(app: App) -> None:
    task = app.task(resize)
    module = compile("\n\ntask.enqueue('a')", "photos.py", "exec")
    with importing():
        with pytest.raises(EnqueueWhileImporting, match=r"photos\.py:3 enqueues a job while dibs"):
            exec(module, {"task": task})
        beside = f"{os.path.dirname(dibs.__file__)}_jobs/photos.py"
        with pytest.raises(EnqueueWhileImporting, match=r"dibs_jobs/photos\.py:1 enqueues"):
            exec(compile("task.enqueue('a')", beside, "exec"), {"task": task})
        with pytest.raises(EnqueueWhileImporting, match=r"test_app\.py:"):
            app.enqueue_many([task.bind("a")])
        with pytest.raises(EnqueueWhileImporting, match=r"test_app\.py:"):
            asyncio.run(enqueued_async(app))
    task.enqueue("a")
    assert len(stored(app)) == 1


async def enqueued_async(app: App) -> None:
    await app.find("resize").aenqueue("a")


def test_an_option_that_the_broker_cannot_keep_is_refused_at_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fewer = replace(store.CAPABILITIES, priorities=False, unique_keys=False)
    monkeypatch.setattr(store, "CAPABILITIES", fewer)
    task = App("memory://few").task(resize)
    with pytest.raises(OptionError, match="on memory://few: this broker cannot order by priority"):
        task.options(priority=1).enqueue("a")
    with pytest.raises(OptionError, match="this broker cannot keep unique keys"):
        asyncio.run(task.options(unique_key="a").aenqueue("a"))
