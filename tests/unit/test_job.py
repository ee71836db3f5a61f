"""What a job tells whoever waits: its result, as its task declares it, or why there is none."""

import asyncio
import enum
import math
import os
import pickle
import re
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct
from msgspec.structs import replace

from dibs import App, Job
from dibs.brokers.contract import Broker
from dibs.brokers.sqlite import SqliteBroker
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.errors import (
    BrokerUnavailable,
    JobFailed,
    JobIdError,
    OptionError,
    ResultError,
    ResultNotKept,
)
from dibs.message import Ack, DeadLetter, Error, Nack, Outcome, Settlement
from dibs.producer import watcher
from dibs.testing import ManualClock
from tests.unit.test_producer import in_child

# What forks a program that has threads is the caller's decision, and newer Pythons warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

PATIENCE = 30.0
"""Seconds after which a test that hangs is given up."""

KEEP_MS = 60_000
ERROR = Error("shop.OutOfPaper", "tray 2", "Traceback ...\n  tray 2\n")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Size:
    width: int
    height: int


class Photo(Struct):
    path: Path
    sizes: list[Size]


VALUES: dict[str, tuple[Any, bytes, object]] = {
    "text": (str, b'"a.jpg"', "a.jpg"),
    "number": (int, b"5", 5),
    "a whole float": (float, b"5", 5.0),
    "text or nothing": (str | None, b"null", None),
    "dataclass": (Size, b'{"width":2,"height":1}', Size(2, 1)),
    "dataclasses": (list[Size], b'[{"width":2,"height":1}]', [Size(2, 1)]),
    "moment": (datetime, b'"2030-01-01T00:00:00Z"', datetime(2030, 1, 1, tzinfo=UTC)),
    "duration": (timedelta, b'"PT60S"', timedelta(minutes=1)),
    "uuid": (UUID, b'"00000000-0000-0000-0000-000000000005"', UUID(int=5)),
    "decimal": (Decimal, b'"0.10"', Decimal("0.10")),
    "enum": (Colour, b'"red"', Colour.RED),
    "path": (Path, b'"a/b.jpg"', Path("a/b.jpg")),
    "struct": (
        Photo,
        b'{"path":"a.jpg","sizes":[{"width":2,"height":1}]}',
        Photo(Path("a.jpg"), [Size(2, 1)]),
    ),
    "by number": (dict[int, tuple[str, bytes]], b'{"1":["a","Yg=="]}', {1: ("a", b"b")}),
    "anything": (Any, b'{"a":[1]}', {"a": [1]}),
    "an object": (object, b'{"a":[1]}', {"a": [1]}),
}


@pytest.fixture(params=["sqlite", "memory"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    urls = {"sqlite": f"sqlite:///{tmp_path}/jobs.db", "memory": f"memory://{tmp_path}"}
    app = App(urls[request.param])
    yield app
    app.close()


@pytest.fixture
def broker(app: App) -> Iterator[Broker]:
    """The worker's side."""
    broker = open_broker(app.url, worker_id=bytes(16), clock=SystemClock())
    yield broker
    broker.close()


def resize(path: str) -> str:
    return path


def end(broker: Broker, outcome: Outcome) -> None:
    """End the job that is next."""
    (lease,) = broker.claim(["default"], 1).leases
    broker.settle([Settlement(lease, outcome)])


def done(broker: Broker, value: bytes = b'"small.jpg"') -> None:
    end(broker, Ack(value, KEEP_MS))


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dibs-watcher"]


def until(found: Callable[[], object]) -> None:
    """Look again and again: what is looked for rings no bell."""
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline


def awaited(wishes: Path) -> bool:
    """Whether a bell hangs for the end of a job."""
    return wishes.exists() and bool(os.listdir(wishes))


# What a result is


@pytest.mark.parametrize("name", VALUES)
def test_a_result_is_what_the_task_says_that_it_returns(
    app: App, broker: Broker, name: str
) -> None:
    kind, stored, expected = VALUES[name]

    def task() -> None: ...

    task.__annotations__["return"] = kind
    job = app.task(task).enqueue()
    done(broker, stored)
    value = job.result(PATIENCE)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf, "1", timedelta(seconds=1)])
def test_a_time_that_nobody_can_wait_for_is_refused(app: App, timeout: Any) -> None:
    job = app.task(resize).enqueue("a.jpg")
    why = re.escape(f"`timeout` is {timeout!r}: give seconds from 0 on")
    for wait in (job.result, job.wait, lambda timeout: asyncio.run(job.aresult(timeout))):
        with pytest.raises(OptionError, match=why):
            wait(timeout)
    for soon in (0, 0.0, 1e-9):
        with pytest.raises(TimeoutError):
            job.result(soon)


def test_a_coroutines_result_is_what_it_returns(app: App, broker: Broker) -> None:
    async def resize() -> Size: ...  # type: ignore[empty-body]  # pyright: ignore[reportReturnType]

    job = app.task(resize).enqueue()
    done(broker, b'{"width":2,"height":1}')
    assert job.result(PATIENCE) == Size(2, 1)


@pytest.mark.parametrize("stored", [b'"5"', b"null", b"5.5", b"{"])
def test_what_does_not_fit_the_annotation_is_an_error(
    app: App, broker: Broker, stored: bytes
) -> None:
    def count() -> int: ...  # type: ignore[empty-body]  # pyright: ignore[reportReturnType]

    job = app.task(count).enqueue()
    done(broker, stored)
    with pytest.raises(ResultError, match="`count` returned does not fit its return annotation"):
        job.result(PATIENCE)


def test_a_task_that_returns_none_has_none_once_it_is_done(app: App, broker: Broker) -> None:
    def log() -> None: ...

    job = app.task(log).enqueue()
    with pytest.raises(TimeoutError):
        job.result(0)
    end(broker, Ack())
    job.result(PATIENCE)
    job.wait(PATIENCE)


def test_what_is_not_kept_is_an_error_that_says_what_to_do(app: App, broker: Broker) -> None:
    def unsaid():
        return 5

    def thrown_away() -> str:
        return "a"

    nobodys = app.task(resize).job("00000000-0000-0000-0000-000000000000")
    for job, what in (
        (app.task(unsaid).enqueue(), "`unsaid` does not say what it returns.* annotate"),
        (app.task(keep_result=0)(thrown_away).enqueue(), r"`thrown_away` keeps no results \(`keep"),
        (nobodys, r"of `resize` is there for 3600 s \(`keep_result=`\), and not if .* never was"),
    ):
        if job is not nobodys:
            end(broker, Ack())
        with pytest.raises(ResultNotKept, match=what):
            job.result(PATIENCE)
        job.wait(PATIENCE)


def test_a_result_is_there_for_its_time(tmp_path: Path) -> None:
    clock = ManualClock()
    app = App(f"sqlite:///{tmp_path}/jobs.db", clock=clock)
    job = app.task(keep_result=60)(resize).enqueue("a")
    broker = open_broker(app.url, worker_id=bytes(16), clock=clock)
    done(broker)
    broker.close()
    clock.advance(KEEP_MS - 1)
    assert job.result(PATIENCE) == "small.jpg"
    clock.advance(1)
    with pytest.raises(ResultNotKept, match="60 s"):
        job.result(PATIENCE)
    app.close()


# A failure


def test_a_dead_letter_is_raised_with_all_that_is_known(app: App, broker: Broker) -> None:
    job = app.task(resize).enqueue("a")
    end(broker, Nack(0, Error("OSError", "cold"), "failure"))
    end(broker, DeadLetter("max_attempts", ERROR, "failure"))
    job.wait(PATIENCE)
    with pytest.raises(JobFailed) as caught:
        job.result(PATIENCE)
    failed = caught.value
    assert str(failed) == (
        f"the job {job.id} of `resize` failed for good (max_attempts): shop.OutOfPaper: tray 2"
    )
    assert (failed.reason, failed.error) == ("max_attempts", ERROR)
    assert [(one.fence, one.charge, one.error.type) for one in failed.attempts] == [
        (1, "failure", "OSError"),
        (2, "failure", "shop.OutOfPaper"),
    ]
    assert "Traceback ...\n  tray 2" in "".join(traceback.format_exception(failed))
    copy = pickle.loads(pickle.dumps(failed))
    assert (str(copy), copy.attempts) == (str(failed), failed.attempts)


def test_each_who_waits_gets_an_error_of_his_own(app: App, broker: Broker) -> None:
    job = app.task(resize).enqueue("a")
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(job.result, PATIENCE) for _ in range(4)]
        end(broker, DeadLetter("rejected", ERROR))
        errors = [wait.exception(PATIENCE) for wait in waits]
    assert {type(error) for error in errors} == {JobFailed}
    assert len({id(error) for error in errors}) == 4


# Waiting


def test_whoever_waits_is_woken_by_the_bell(
    app: App, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "SAFETY_LOOK_SECONDS", 3_600.0)
    job = app.task(resize).enqueue("a")
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            wait = pool.submit(job.result, PATIENCE)
            (lease,) = broker.claim(["default"], 1).leases
            broker.settle([Settlement(lease, Ack(b'"small.jpg"', KEEP_MS))])
            assert wait.result(PATIENCE) == "small.jpg"
            job = app.find("resize").enqueue("a")


def test_a_lost_ring_costs_a_second(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/jobs.db")
    job = app.task(resize).enqueue("a")
    wishes = tmp_path / "jobs.db-bells" / "ends"
    broker = open_broker(app.url, worker_id=bytes(16), clock=SystemClock())
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(job.result, PATIENCE)
        until(lambda: awaited(wishes))
        shutil.rmtree(wishes)
        done(broker)
        assert wait.result(5 * watcher.SAFETY_LOOK_SECONDS) == "small.jpg"
    broker.close()
    app.close()


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_time_that_is_over_is_an_error_and_the_job_goes_on(
    app: App, broker: Broker, timeout: float
) -> None:
    job = app.task(resize).enqueue("a")
    for wait in (job.result, job.wait):
        with pytest.raises(TimeoutError, match=f"{job.id} has not ended within .* it goes on"):
            wait(timeout)
    with pytest.raises(TimeoutError, match="has not ended within"):
        asyncio.run(job.aresult(timeout))
    done(broker)
    assert job.result(timeout) == "small.jpg", "however short the time, it is looked once"
    assert asyncio.run(job.aresult(timeout)) == "small.jpg"


def test_threads_share_one_watcher(app: App, broker: Broker) -> None:
    task = app.task(resize)
    jobs = [task.enqueue(str(n)) for n in range(40)]
    barrier = threading.Barrier(41)

    def wait(job: Job[str]) -> str:
        barrier.wait(PATIENCE)
        return job.result(PATIENCE)

    before = len(watchers())
    with ThreadPoolExecutor(40) as pool:
        waits = [pool.submit(wait, job) for job in jobs]
        barrier.wait(PATIENCE)
        leases = broker.claim(["default"], 40).leases
        for lease in leases:
            broker.settle([Settlement(lease, Ack(b'"%d"' % leases.index(lease), KEEP_MS))])
        assert [wait.result(PATIENCE) for wait in waits] == [str(n) for n in range(40)]
    assert len(watchers()) == before + 1


def test_coroutines_wait_and_the_loop_runs_on(app: App, broker: Broker) -> None:
    task = app.task(resize)

    async def main() -> tuple[list[str], int]:
        jobs = [await task.aenqueue(str(n)) for n in range(100)]
        waits = asyncio.gather(*(job.aresult(PATIENCE) for job in jobs))
        turns = 0
        while not waits.done():
            turns += 1
            if leases := broker.claim(["default"], 1).leases:
                broker.settle([Settlement(leases[0], Ack(leases[0].message.args[8:-1], KEEP_MS))])
            await asyncio.sleep(0)
        return await waits, turns

    results, turns = asyncio.run(main())
    assert results == [str(n) for n in range(100)]
    assert turns >= 100


def test_a_cancelled_wait_is_no_longer_looked_for(app: App, broker: Broker) -> None:
    job = app.task(resize).enqueue("a")

    async def main() -> None:
        wait = asyncio.create_task(job.aresult())
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        with pytest.raises(TimeoutError):
            await job.aresult(0.01)

    asyncio.run(main())
    done(broker)
    assert job.result(PATIENCE) == "small.jpg"


def test_nobody_rings_for_a_wait_that_is_over(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/jobs.db")
    first, second = (app.task(resize).enqueue("a"), app.find("resize").enqueue("b"))
    wishes = tmp_path / "jobs.db-bells" / "ends"

    async def give_up() -> None:
        wait = asyncio.create_task(first.aresult())
        await asyncio.to_thread(until, lambda: awaited(wishes))
        wait.cancel()

    asyncio.run(give_up())
    with pytest.raises(TimeoutError):
        second.wait(0.01)
    # The look that tells of the end is followed by one that takes the wish away.
    until(lambda: not awaited(wishes))
    app.close()


def test_closing_ends_every_wait_and_the_next_one_opens_it_again(app: App, broker: Broker) -> None:
    job = app.task(resize).enqueue("a")
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(TimeoutError):
            job.wait(0.01)
        waits = [pool.submit(job.result), pool.submit(job.wait)]
        while sum(wait.running() for wait in waits) < 2:
            pass
        ended = threading.Event()
        for wait in waits:
            wait.add_done_callback(lambda _: ended.set())
        while not ended.is_set():  # one that asks only now starts a watcher anew
            app.close()
        app.close()
        errors = [wait.exception(PATIENCE) for wait in waits]
    assert {type(error) for error in errors} == {BrokerUnavailable}
    done(broker)
    assert job.result(PATIENCE) == "small.jpg"


def test_trouble_of_the_broker_is_told_to_all_who_wait(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/there/jobs.db")
    job = app.task(resize).job("00000000-0000-0000-0000-000000000000")
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(job.result) for _ in range(3)]
        errors = [wait.exception(PATIENCE) for wait in waits]
    assert {type(error) for error in errors} == {BrokerUnavailable}
    assert len({id(error) for error in errors}) == 3
    (tmp_path / "there").mkdir()
    with pytest.raises(ResultNotKept):
        job.result(PATIENCE)
    app.close()


def test_a_broker_that_cannot_tell_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = replace(SqliteBroker.capabilities, results=False)
    monkeypatch.setattr(SqliteBroker, "capabilities", fewer)
    app = App(f"sqlite:///{tmp_path}/jobs.db")
    with pytest.raises(ResultNotKept, match=r"jobs\.db cannot tell how a job ended"):
        app.task(resize).enqueue("a").wait(PATIENCE)
    app.close()


# Where it is


def test_a_job_says_where_it_is_from_publish_to_end(app: App, broker: Broker) -> None:
    task = app.task(resize)
    job = task.enqueue("a")
    again = task.job(job.id)
    assert job.status() == again.status() == "ready"
    (lease,) = broker.claim(["default"], 1).leases
    assert job.status() == "in flight"
    broker.settle([Settlement(lease, Nack(60_000, ERROR))])
    assert job.status() == "scheduled"
    other = task.enqueue("b")
    done(broker)
    assert other.status() == "done"
    failed = task.enqueue("c")
    end(broker, DeadLetter("rejected", ERROR))
    assert failed.status() == "dead"
    forgotten = task.enqueue("d")
    end(broker, Ack())
    assert forgotten.status() == "gone"


def test_a_job_may_be_looked_for_from_many_threads(app: App, broker: Broker) -> None:
    job = app.task(resize).enqueue("a")
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda _: job.status(), range(200)))
    assert set(states) == {"ready"}
    assert len(broker.claim(["default"], 9).leases) == 1


# Forks


def test_parent_and_child_both_wait_after_a_fork(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/jobs.db")
    job = app.task(resize).enqueue("a")
    with pytest.raises(TimeoutError):
        job.wait(0.01)
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(job.result, PATIENCE)
        in_child(lambda: waited_in_child(job))
        broker = open_broker(app.url, worker_id=bytes(16), clock=SystemClock())
        done(broker)
        broker.close()
        assert mine.result(PATIENCE) == "small.jpg"
        in_child(lambda: got_in_child(job))
        assert job.result(PATIENCE) == "small.jpg"
    app.close()


def waited_in_child(job: Job[str]) -> None:
    assert watchers() == []
    with pytest.raises(TimeoutError):
        job.wait(0.01)


def got_in_child(job: Job[str]) -> None:
    assert job.result(PATIENCE) == "small.jpg"


def test_a_child_does_not_wait_for_what_is_in_its_parents_memory(tmp_path: Path) -> None:
    app = App(f"memory://{tmp_path}")
    job = app.task(resize).enqueue("a")
    in_child(lambda: refused(job.wait))
    app.close()


def refused(wait: Callable[[float], None]) -> None:
    with pytest.raises(BrokerUnavailable, match="this one is a fork of it"):
        wait(PATIENCE)


# Ids


def test_a_job_is_found_again_by_its_id(app: App, broker: Broker) -> None:
    task = app.task(resize)
    job = task.options(queue="photos").enqueue("a")
    again = task.job(job.id)
    assert (again.id, again.key, again.task) == (job.id, job.key, "resize")
    assert repr(again) == f"<Job {job.id} of resize>"
    (lease,) = broker.claim(["photos"], 1).leases
    broker.settle([Settlement(lease, Ack(b'"b"', KEEP_MS))])
    assert again.result(PATIENCE) == "b"
    assert task.job(job.id.upper().replace("-", "")) == again


@pytest.mark.parametrize("text", ["", "5", "é", "0" * 31, "0" * 34, b"0" * 16, None])
def test_what_is_no_id_is_refused(app: App, text: Any) -> None:
    with pytest.raises(JobIdError, match="is no job's id"):
        app.task(resize).job(text)


def test_a_wait_for_a_file_that_is_gone_ends_in_an_error(tmp_path: Path) -> None:
    app = App(f"sqlite:///{tmp_path}/jobs.db")
    job = app.task(resize).enqueue("a")
    with pytest.raises(TimeoutError):
        job.wait(0)
    (tmp_path / "jobs.db").unlink()
    with pytest.raises(BrokerUnavailable, match="not the file any more"):
        job.wait(PATIENCE)
    app.close()
