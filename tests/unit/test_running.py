"""What a running task can ask about itself."""

import asyncio
import time

import pytest

from dibs import App, context
from dibs.message import Lease, Message
from dibs.running import JobContext


def test_outside_of_a_job_there_is_no_context() -> None:
    with pytest.raises(LookupError, match="inside a task only"):
        context()


def test_a_job_knows_its_id_its_lease_and_why_it_should_stop() -> None:
    message = Message(bytes(15) + b"\1", "photos", "resize", b"{}")
    job = JobContext(Lease(message, 7, 2, 1, 1, 0, 1), deadline=time.monotonic() + 60)
    assert (job.job_id, job.task, job.queue) == (
        "00000000-0000-0000-0000-000000000001", "resize", "photos",
    )  # fmt: skip
    assert (job.attempt, job.fence) == (5, 7)
    assert 59 < job.remaining_seconds <= 60
    assert (job.stop_reason, job.lease_lost) == (None, False)
    job.stop_reason = "timeout"
    assert not job.lease_lost
    job.stop_reason = "lease_lost"
    assert job.lease_lost


def test_the_time_left_counts_from_the_start_of_the_run_and_is_told_to_subtasks_too() -> None:
    app = App("memory://running")
    jobs: list[tuple[JobContext, float]] = []

    @app.task(timeout=60)
    def plain() -> None:
        jobs.append((context(), time.monotonic()))

    @app.task(timeout=60)
    async def subtask() -> None:
        async def ask() -> None:
            jobs.append((context(), time.monotonic()))

        await asyncio.create_task(ask())

    for task in (plain, subtask):
        task.enqueue()
    began = time.monotonic()
    assert app.worker(concurrency=2).drain().done == 2
    assert {job.task for job, _ in jobs} == {"plain", "subtask"}
    for job, now in jobs:
        assert began + 60 < job.deadline <= now + 60
    app.close()
