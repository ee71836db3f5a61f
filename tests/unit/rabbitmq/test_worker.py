"""A real `dibs worker` on a real RabbitMQ server, from enqueue to done, dead and back again."""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dibs.brokers.rabbitmq import open_url
from dibs.clock import SystemClock
from dibs.testing.making import message, publish
from tests.servers.rabbitmq import Server
from tests.unit.rabbitmq.test_server import bodies_of, channel_of, prefix_of
from tests.worker.workers import LAUNCH, Started, until

DOCS = Path(__file__).parents[3] / "docs/rabbitmq.md"

APP = """
import time
from dibs import App, context
from dibs.backoff import fixed

app = App({url!r})

def note(what):
    with open({notes!r}, "a") as file:
        file.write(what + chr(10))

@app.task
def works(n: int) -> None:
    note(f"done {{n}}")

@app.task(backoff=fixed(0.05))
def fails_once() -> None:
    if context().attempt == 1:
        raise ValueError("not yet")
    note("done at attempt 2")

@app.task
def never_works() -> None:
    raise ValueError("no such photo")

@app.task
def works_later(n: int) -> None:
    note(f"later {{n}}")

@app.task
def hangs_for_the_first() -> None:
    note(f"began {{context().attempt}}")
    while context().attempt == 1:
        time.sleep(0.05)
    note("done after a loss")
"""


class Stage:
    """An app on the server, and what its jobs note."""

    def __init__(self, folder: Path, url: str) -> None:
        self.notes = folder / "notes"
        self.notes.touch()
        text = APP.format(url=url, notes=str(self.notes))
        (folder / "shop.py").write_text(text, encoding="utf-8")
        self._folder = folder
        self.producer = open_url(url, clock=SystemClock(), worker_id=os.urandom(16))
        self._started: list[Started] = []

    def worker(self) -> Started:
        command = [sys.executable, LAUNCH, "-", "-", "worker", "shop:app", "-c", "4"]
        started = Started(self._folder, command)
        self._started.append(started)
        started.line("slots")
        return started

    def saw(self, line: str, count: int = 1) -> None:
        until(lambda: self.notes.read_text().splitlines().count(line) >= count, line)

    def enqueue(self, name: str, *numbers: int, delay: float = 0.0) -> None:
        args = json.dumps({"n": number} if (number := next(iter(numbers), None)) else {})
        due_ms = SystemClock().wall_ms() + int(delay * 1_000) if delay else 0
        budget = 1 if name == "never_works" else 5
        new = message("default", task=name, args=args.encode(), due_ms=due_ms, max_attempts=budget)
        publish(self.producer, new)

    def close(self) -> None:
        self.producer.close()
        for started in self._started:
            started.clear_away()


@pytest.fixture
def stage(tmp_path: Path, url: str) -> Iterator[Stage]:
    """Give an app for the length of one test."""
    made = Stage(tmp_path, url)
    yield made
    made.close()


def test_jobs_are_done_tried_again_and_given_up(stage: Stage, url: str) -> None:
    """And what is due later comes later."""
    worker = stage.worker()
    stage.enqueue("works", 1)
    stage.enqueue("fails_once")
    stage.enqueue("never_works")
    began = time.monotonic()
    stage.enqueue("works_later", 2, delay=0.6)
    stage.saw("done 1")
    stage.saw("done at attempt 2")
    stage.saw("later 2")
    assert time.monotonic() - began >= 0.5
    worker.line("never_works .*dead letter: max_attempts")
    with channel_of(url) as channel:
        dead = f"{prefix_of(url)}.dead.default"
        until(lambda: channel.queue_declare(dead, passive=True).method.message_count, "it is dead")
        ((properties, _),) = bodies_of(channel, dead)
    assert properties.headers["reason"] == "max_attempts"
    assert worker.stop() == 0


def test_rule_23_the_jobs_of_a_killed_worker_come_back(stage: Stage) -> None:
    first = stage.worker()
    stage.enqueue("hangs_for_the_first")
    stage.saw("began 1")
    first.kill()
    second = stage.worker()
    stage.saw("done after a loss")
    assert second.stop() == 0


def test_rule_25_a_worker_outlives_the_servers_restart(stage: Stage, server: Server) -> None:
    """It takes jobs again within ten seconds of the server's return, and so does its producer."""
    worker = stage.worker()
    stage.enqueue("works", 1)
    stage.saw("done 1")
    server.stop()
    worker.line("the broker fails")
    server.start()
    back = time.monotonic()
    stage.enqueue("works", 2)
    stage.saw("done 2")
    assert time.monotonic() - back < 10
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("guest:hunter2@127.0.0.1:{}/", "ACCESS_REFUSED - .*: check user and password"),
        ("guest:guest@127.0.0.1:{}/hall", "NOT_ALLOWED - vhost hall not found"),
    ],
)
def test_a_worker_that_is_not_let_in_says_why_and_ends(
    tmp_path: Path, server: Server, place: str, why: str
) -> None:
    """Whoever started it is there to mend that."""
    url = f"amqp://{place.format(server.port)}"
    text = APP.format(url=url, notes=str(tmp_path / "notes"))
    (tmp_path / "shop.py").write_text(text, encoding="utf-8")
    worker = Started(tmp_path, [sys.executable, "-m", "dibs", "worker", "shop:app"])
    assert worker.end() == 2
    assert worker.saw(rf"^dibs: .*{why}")
    assert "hunter2" not in worker.text
    assert "Traceback" not in worker.text


def test_rule_25_a_worker_that_is_not_let_in_again_goes_on_trying(
    tmp_path: Path, server: Server
) -> None:
    """Its user's password is changed while it runs; the user and its rights are of the docs."""
    for command in re.findall(r"^\$ rabbitmqctl (.*)$", DOCS.read_text(), re.MULTILINE):
        server.control(*shlex.split(command))
    stage = Stage(tmp_path, f"amqp://dibs:secret@127.0.0.1:{server.port}/shop")
    try:
        worker = stage.worker()
        stage.enqueue("works", 1)
        stage.saw("done 1")
        server.control("change_password", "dibs", "another")
        server.control("close_all_connections", "-p", "shop", "password changed")
        worker.line("the broker fails: .*(ACCESS_REFUSED|CONNECTION_FORCED - password changed)")
        server.control("change_password", "dibs", "secret")
        stage.enqueue("works", 2)
        stage.saw("done 2")
        assert worker.stop() == 0
        assert "secret" not in worker.text
    finally:
        stage.close()


REFUSED = """
from dibs import App

app = App({url!r})

@app.task({option})
def resize(path: str) -> None:
    ...
"""


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("timeout=3600", "a timeout of 3,600,000 ms is not within 1 and 1,620,000 ms"),
        ("priority=5", "this broker cannot order by priority"),
    ],
)
def test_a_worker_refuses_at_its_start_what_the_broker_cannot_keep(
    tmp_path: Path, url: str, option: str, why: str
) -> None:
    text = REFUSED.format(url=url, option=option)
    (tmp_path / "shop.py").write_text(text, encoding="utf-8")
    worker = Started(tmp_path, [sys.executable, "-m", "dibs", "worker", "shop:app"])
    assert worker.end() == 2
    assert worker.saw(r"^dibs: `resize` \(")
    assert why in worker.text
    assert "Traceback" not in worker.text
    elsewhere = Started(
        tmp_path, [sys.executable, "-m", "dibs", "worker", "shop:app", "-q", "another"]
    )
    elsewhere.line(r"^  slots ")
    assert elsewhere.stop() == 0, "what it does not serve is not its affair"
