"""Whole workers on a server that speaks SQS: started, killed, and left alone with their trouble."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dibs import App
from tests.servers.sqs import KEYS, Server, serving
from tests.servers.sqs_faults import fronting
from tests.worker.workers import Started, until

HEAL_SECONDS = 10.0
SHOP = """
import os, time
from pathlib import Path
from dibs import App, context

app = App("{url}")

def note(what, n):
    with open("notes.txt", "a") as file:
        file.write(f"{{what}} {{n}} {{context().attempt}}\\n")

@app.task(visibility_timeout=3)
def add(n: int) -> None:
    note("add", n)

@app.task(visibility_timeout=3, max_attempts=2)
def fail(n: int) -> None:
    note("fail", n)
    raise ValueError("no")

@app.task(visibility_timeout=3)
def hold(n: int) -> None:
    note("hold", n)
    while not Path("go").exists():
        time.sleep(0.05)
    note("held", n)
"""


class Shop:
    """An app on a prefix of its own, and its workers."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.started: list[Started] = []
        url = server.url(f"w{os.getpid()}-")
        (folder / "shop.py").write_text(SHOP.format(url=url))
        self.app = App(url)
        self.add, self.fail, self.hold = (
            self.app.task(_named(name), visibility_timeout=3, max_attempts=2)
            for name in ("add", "fail", "hold")
        )

    def worker(self, *options: str) -> Started:
        command = [sys.executable, "-m", "dibs", "worker", "shop:app", "-c", "4", *options]
        self.started.append(Started(self.folder, command))
        self.started[-1].line(r"^  slots ")
        return self.started[-1]

    def notes(self, what: str) -> Counter[int]:
        path = self.folder / "notes.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.split()[0] == what)

    def until_noted(self, what: str, *numbers: int, seconds: float = 30.0) -> None:
        try:
            until(lambda: set(numbers) <= set(self.notes(what)), f"{what} {numbers}", seconds)
        except AssertionError as late:
            texts = "\n".join(one.text for one in self.started)
            raise AssertionError(f"{late}; it is {self.notes(what)}\n{texts}") from None

    def close(self) -> None:
        for one in self.started:
            one.clear_away()
        self.app.close()


def _named(name: str):  # type: ignore[no-untyped-def]
    def task(n: int) -> None:
        del n

    task.__name__ = name
    return task


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that a test may stop."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serving() as server:
        yield server


@pytest.fixture
def shop(own_server: Server, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, own_server)
    yield made
    made.close()


def test_a_worker_without_credentials_ends_with_2_and_says_where_they_are_looked_for(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that found none when it was made finds none later: waiting would not help."""
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    (tmp_path / "shop.py").write_text(SHOP.format(url=own_server.url()))
    worker = Started(tmp_path, [sys.executable, "-m", "dibs", "worker", "shop:app"])
    try:
        assert worker.end() == 2
        worker.line(r"NoCredentialsError: .*: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    finally:
        worker.clear_away()


def test_jobs_are_done_retried_delayed_and_given_up_on(shop: Shop) -> None:
    shop.app.enqueue_many(shop.add.bind(n) for n in range(40))
    shop.fail.enqueue(1)
    enqueued = time.monotonic()
    shop.add.options(delay=2).enqueue(40)
    worker = shop.worker()
    shop.until_noted("add", *range(41))
    assert time.monotonic() - enqueued >= 2
    worker.line("fail .* dead letter: max_attempts")
    assert shop.notes("fail") == {1: 2}
    assert set(shop.notes("add").values()) == {1}
    assert worker.stop() == 0


def test_a_drain_ends_when_everything_is_done_and_not_before(shop: Shop) -> None:
    """What a poll is about to bring is not nothing."""
    shop.app.enqueue_many(shop.add.bind(n) for n in range(150))
    worker = shop.worker("--drain")
    assert worker.end() == 0
    assert set(shop.notes("add")) == set(range(150))


def test_rule_23_the_jobs_of_a_killed_worker_run_again(shop: Shop) -> None:
    shop.app.enqueue_many(shop.hold.bind(n) for n in range(4))
    first = shop.worker()
    shop.until_noted("hold", *range(4))
    first.kill()
    (shop.folder / "go").touch()
    second = shop.worker()
    shop.until_noted("held", *range(4))
    assert set(shop.notes("hold").values()) == {2}
    assert second.stop() == 0


def test_a_job_that_outlasts_its_visibility_timeout_runs_once(shop: Shop) -> None:
    shop.hold.enqueue(1)
    workers = [shop.worker(), shop.worker()]
    shop.until_noted("hold", 1)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 7, "two visibility timeouts have passed")
    (shop.folder / "go").touch()
    shop.until_noted("held", 1)
    assert shop.notes("hold") == {1: 1}
    assert [worker.stop() for worker in workers] == [0, 0]


def test_a_settlement_that_sqs_refuses_leaves_the_other_leases_of_its_worker_alone(
    shop: Shop, own_server: Server
) -> None:
    """KMS throttles the copies of what failed, and what runs beside it is renewed all the same."""
    with fronting(own_server.port) as front:
        shop.hold.enqueue(1)
        shop.fail.enqueue(1)
        front.spoil("SendMessageBatch", *["throttled"] * 1_000)
        prefix = shop.app.url.partition("?")[0]
        first = shop.worker("--url", f"{prefix}?endpoint={front.endpoint}")
        shop.until_noted("hold", 1)
        first.line("the broker fails: BrokerUnavailable: sqs://.*KMS")
        second = shop.worker()
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 7, "two visibility timeouts have passed")
        shop.add.enqueue(1)
        shop.until_noted("add", 1)
        (shop.folder / "go").touch()
        shop.until_noted("held", 1)
        assert shop.notes("hold") == {1: 1}
        assert second.stop() == 0


def test_rule_25_a_worker_goes_on_by_itself_when_its_server_is_back(
    shop: Shop, own_server: Server
) -> None:
    """This one forgets its queues when it ends, so they are made anew as well."""
    worker = shop.worker()
    shop.add.enqueue(1)
    shop.until_noted("add", 1)
    for number in (2, 3):
        own_server.process.kill()
        own_server.process.wait()
        worker.line("the broker fails: BrokerUnavailable")
        with serving(own_server.port):
            back = time.monotonic()
            until(lambda number=number: _enqueued(shop, number), "enqueued")
            shop.until_noted("add", number, seconds=HEAL_SECONDS)
            assert time.monotonic() - back < HEAL_SECONDS
    assert worker.process.poll() is None


def test_rule_25_a_worker_outlasts_a_server_that_stands_still(
    shop: Shop, own_server: Server
) -> None:
    """No answer for longer than any request waits; then it goes on as before."""
    worker = shop.worker()
    shop.add.enqueue(1)
    shop.until_noted("add", 1)
    own_server.process.send_signal(signal.SIGSTOP)
    worker.line("the broker fails: BrokerUnavailable", 60)
    own_server.process.send_signal(signal.SIGCONT)
    healed_at = time.monotonic()
    sent: list[int] = []

    def another_is_done() -> bool:
        # Two a second: a poll that stood still with the server brings what it finds to nobody, and
        # that is hidden for half a minute.
        if len(sent) <= 2 * (time.monotonic() - healed_at):
            sent.append(len(sent) + 2)
            shop.add.enqueue(sent[-1])
        return bool(shop.notes("add").keys() - {1})

    until(another_is_done, "a job that came later is done", HEAL_SECONDS)
    worker.line("the broker works again")
    assert worker.stop() == 0


def test_rule_29_a_stop_gives_back_what_came_and_was_not_begun(shop: Shop) -> None:
    """The next worker has it at once, and no attempt of it is used up."""
    shop.app.enqueue_many(shop.hold.bind(n) for n in range(30))
    first = shop.worker()
    until(lambda: len(shop.notes("hold")) == 4, "four have begun")
    first.send(signal.SIGTERM)
    first.line("finish")
    (shop.folder / "go").touch()
    assert first.end() == 0
    second = shop.worker()
    shop.until_noted("held", *range(30))
    assert set(shop.notes("held").values()) == {1}
    lines = (shop.folder / "notes.txt").read_text().splitlines()
    assert {line.split()[2] for line in lines} == {"1"}
    assert second.stop() == 0


def _enqueued(shop: Shop, number: int) -> bool:
    from dibs.errors import BrokerError

    try:
        shop.add.enqueue(number)
    except BrokerError:
        return False
    return True
