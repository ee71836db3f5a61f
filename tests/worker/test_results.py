"""What a caller in one process is told of jobs that real workers run in others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from msgspec import Struct

from dibs import App, Job
from dibs.backoff import fixed
from dibs.errors import JobFailed
from tests.worker.workers import SECONDS, Scene


class Answer(Struct):
    """As the zoo's, which is another class: what they share is JSON."""

    n: int
    at: datetime


COUNT_ATTEMPTS = """
import apsw
print(apsw.Connection("zoo.db").execute("SELECT count(*) FROM attempt").fetchall()[0][0])
"""
MOMENT = datetime(2030, 1, 1, tzinfo=UTC)


class Caller:
    """A program that knows what the zoo's tasks are called, take and return."""

    def __init__(self, scene: Scene) -> None:
        self.app = app = App(f"sqlite:///{scene.folder}/zoo.db")

        @app.task
        def answers(n: int) -> Answer: ...  # type: ignore[empty-body]

        @app.task
        def answers_def(n: int) -> Answer: ...  # type: ignore[empty-body]

        @app.task(backoff=fixed(0), max_attempts=3)
        def fails_thrice(n: int) -> Answer: ...  # type: ignore[empty-body]

        @app.task
        def once(n: int) -> None: ...

        @app.task(max_crashes=3)
        def crashes(n: int, how: str) -> None: ...

        @app.task(visibility_timeout=1)
        def held(n: int) -> None: ...

        self.answers, self.answers_def, self.fails_thrice = answers, answers_def, fails_thrice
        self.once, self.crashes, self.held = once, crashes, held


@pytest.fixture
def caller(scene: Scene) -> Iterator[Caller]:
    caller = Caller(scene)
    yield caller
    caller.app.close()


def attempts_in(scene: Scene) -> int:
    """How many notes of attempts the file holds."""
    command = [sys.executable, "-c", COUNT_ATTEMPTS]
    return int(subprocess.check_output(command, cwd=scene.folder))


def failure(job: Job[object]) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        job.result(SECONDS)
    return caught.value


def test_results_come_back_to_threads_and_to_coroutines(scene: Scene, caller: Caller) -> None:
    scene.worker("-c", "4")
    with ThreadPoolExecutor(8) as pool:
        jobs = [caller.answers.enqueue(n) for n in range(40)]
        assert list(pool.map(lambda job: job.result(SECONDS), jobs)) == [
            Answer(n, MOMENT) for n in range(40)
        ]

    async def ask(n: int) -> Answer:
        return await (await caller.answers_def.aenqueue(n)).aresult(SECONDS)

    async def ask_all() -> list[Answer]:
        return await asyncio.gather(*(ask(n) for n in range(40)))

    assert asyncio.run(ask_all()) == [Answer(n, MOMENT) for n in range(40)]
    caller.once.enqueue(1).result(SECONDS)
    assert len(scene.notes("once")) == 1


def test_a_job_that_fails_for_good_tells_of_all_its_attempts(scene: Scene, caller: Caller) -> None:
    scene.worker()
    failed = failure(caller.fails_thrice.enqueue(7))
    assert failed.reason == "max_attempts"
    assert failed.error.type == "ValueError"
    assert failed.error.message == "7, attempt 3"
    assert 'raise ValueError(f"{n}, attempt' in failed.error.traceback
    told = [(one.charge, one.error.message) for one in failed.attempts]
    assert told == [("failure", f"7, attempt {number}") for number in (1, 2, 3)]
    assert [one.fence for one in failed.attempts] == [1, 2, 3]


def test_a_job_that_crashes_its_process_tells_how_each_died(scene: Scene, caller: Caller) -> None:
    scene.worker("--processes", "1")
    failed = failure(caller.crashes.enqueue(1, "exit"))
    assert failed.reason == "max_crashes"
    assert [one.charge for one in failed.attempts] == ["crash"] * 3
    assert {one.error.type for one in failed.attempts} == {"RunnerDied"}
    assert all("the process running it died" in one.error.message for one in failed.attempts)


def test_a_job_that_ended_well_after_a_crash_has_no_history(scene: Scene, caller: Caller) -> None:
    job = caller.held.enqueue(1)
    scene.worker("--processes", "1")
    (started,) = scene.until_notes("start", 1)
    os.kill(started.pid, signal.SIGKILL)
    assert scene.until_notes("start", 2)[1].attempt == 2
    assert attempts_in(scene) == 1
    scene.touch("go")
    job.result(SECONDS)
    assert attempts_in(scene) == 0


def test_a_caller_waits_on_through_the_death_of_the_worker(scene: Scene, caller: Caller) -> None:
    job = caller.held.enqueue(1)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(job.wait, SECONDS)
        first = scene.worker()
        scene.until_notes("start", 1)
        first.kill()
        assert not wait.done()
        scene.touch("go")
        scene.worker()
        wait.result(SECONDS)
    assert len(scene.notes("end")) == 1
