"""One broker per process: shared by threads and event loops, and not over a fork."""

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from msgspec.structs import replace

from dibs import App, Task
from dibs.brokers.contract import Duplicate, Published, Stored, Unknown
from dibs.brokers.memory import open_memory
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.delivery import BoundCall
from dibs.errors import BrokerBusy, BrokerFull, BrokerUnavailable, OptionError, PublishUnknown
from dibs.message import Message
from dibs.producer.door import Door, Waiter
from dibs.producer.handle import Handle
from dibs.producer.ids import as_text
from dibs.producer.producer import Producer
from dibs.producer.publisher import RESOLVED_AT_ONCE, Answering, Publisher
from tests.unit.alarm import raising_alarm
from tests.unit.steps import each_step

# What forks a program that has threads is the caller's decision, and newer Pythons warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

PATIENCE = 30.0
"""Seconds after which a test that hangs is given up."""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(f"sqlite:///{tmp_path}/producer.db")
    app.task(note)
    yield app
    app.close()


def note(text: str) -> None: ...


def task_of(app: App) -> Task[..., Any]:
    return app.find("note")


def texts(app: App) -> list[bytes]:
    broker = open_broker(app.url, worker_id=bytes(16), clock=SystemClock())
    try:
        return [lease.message.args for lease in broker.claim(["default"], 10_000).leases]
    finally:
        broker.close()


def message(number: int) -> Message:
    return Message(number.to_bytes(16, "big"), "default", "note", b'{"text":"x"}')


class Scripted:
    """Stands before a broker in memory and does with each publish what the test says."""

    def __init__(self, name: str) -> None:
        self.broker = open_memory(name, clock=SystemClock(), worker_id=bytes(16))
        self.capabilities = self.broker.capabilities
        self.url = self.broker.url
        self.batches: list[list[bytes]] = []
        self.script: list[Act] = []
        self.declared: list[str] = []

    def declare(self, queues: Sequence[str]) -> None:
        self.declared += queues

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        self.batches.append([message.id for message in messages])
        act = self.script.pop(0) if self.script else self.broker.publish
        return act(messages)


def door_to(scripted: Any) -> Door:
    return Door(Handle(lambda: scripted))


Act = Callable[[Sequence[Message]], list[Any]]


def raising(error: BaseException) -> Act:
    def act(_: Sequence[Message]) -> list[Published]:
        raise error

    return act


def answering(*answers: Published) -> Act:
    return lambda _: list(answers)


class Gate:
    """Holds a publish until the test lets it through."""

    def __init__(self, then: Act) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self._then = then

    def __call__(self, messages: Sequence[Message]) -> list[Published]:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        return self._then(messages)


class Callers:
    """Threads that each publish one message, and what became of each."""

    def __init__(self, door: Door | Producer, numbers: Sequence[int]) -> None:
        self.outcomes: dict[int, object] = {}
        self._door = door
        self._threads = [
            threading.Thread(target=self._call, args=(n,), daemon=True) for n in numbers
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, number: int) -> None:
        try:
            self.outcomes[number] = self._door.publish(message(number))
        except BaseException as error:
            self.outcomes[number] = error

    def join(self) -> dict[int, object]:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return self.outcomes


def waiting(door: Door, how_many: int) -> None:
    """Until so many threads queue at the door."""
    done = threading.Event()
    while len(door._waiting) < how_many:
        done.wait(0.001)


@contextmanager
def switching_after(seconds: float) -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def interpreter_kept() -> AbstractContextManager[None]:
    """No thread has the interpreter taken away meanwhile: who is woken only runs when it waits."""
    return switching_after(1_000)


def interpreter_given_away() -> AbstractContextManager[None]:
    """Threads take turns as often as they can: between any two steps."""
    return switching_after(0.000_001)


def occupied(scripted: Scripted, *later: Act) -> tuple[Door, Gate, Callers]:
    """Return a door that message 0 is inside of until the gate is opened; then come `later`."""
    gate = Gate(scripted.broker.publish)
    scripted.script = [gate, *later]
    door = door_to(scripted)
    inside = Callers(door, [0])
    assert gate.entered.wait(PATIENCE)
    return door, gate, inside


def test_whoever_has_the_door_takes_along_who_waits() -> None:
    scripted = Scripted("group")
    door, gate, first = occupied(scripted)
    rest = Callers(door, range(1, 20))
    waiting(door, 19)
    gate.open.set()
    assert first.join() == {0: message(0).id}
    assert rest.join() == {n: message(n).id for n in range(1, 20)}
    assert [len(batch) for batch in scripted.batches] == [1, 19]
    assert scripted.declared == ["default"]


def test_many_threads_lose_nothing_and_share_commits(app: App) -> None:
    keys: list[bytes] = []

    def work(who: int) -> None:
        keys.extend(task_of(app).enqueue(f"{who}-{n}").key for n in range(25))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(set(keys)) == 800
    assert len(set(texts(app))) == 800


class Queueing:
    """Stores a batch when others have gone to sleep at the door."""

    def __init__(self, door: Door, numbers: Sequence[int], then: Act) -> None:
        self.callers: Callers | None = None
        self._door, self._numbers, self._then = door, numbers, then

    def __call__(self, messages: Sequence[Message]) -> list[Published]:
        callers = Callers(self._door, self._numbers)
        waiting(self._door, len(self._numbers))
        self.callers = callers
        return self._then(messages)


def test_one_who_waits_gets_through_between_the_batches_of_a_stream() -> None:
    """The stream is in again before the thread it woke has the interpreter."""
    scripted = Scripted("stream")
    door = door_to(scripted)
    queueing = Queueing(door, [1], scripted.broker.publish)
    scripted.script = [queueing]
    with interpreter_kept():
        for number in [0, 2, 3]:
            door.publish_batch([message(number)])
    assert queueing.callers is not None
    assert queueing.callers.join() == {1: message(1).id}
    assert scripted.batches == [[message(number).id] for number in range(4)]


def test_what_another_thread_waits_for_does_not_fail_the_one_who_takes_it_along() -> None:
    scripted = Scripted("spared")
    door = door_to(scripted)
    queueing = Queueing(door, [1], scripted.broker.publish)
    scripted.script = [queueing, raising(OptionError("of the other"))]
    with interpreter_kept():
        door.publish_batch([message(0)])
        assert door.publish_batch([message(2)]) == [message(2).id]
    assert queueing.callers is not None
    assert queueing.callers.join() == {1: message(1).id}


def test_an_error_is_told_to_each_whose_message_it_met() -> None:
    scripted = Scripted("full")
    door, gate, first = occupied(scripted, raising(BrokerFull("no room")))
    rest = Callers(door, [1, 2, 3])
    waiting(door, 3)
    gate.open.set()
    assert first.join() == {0: message(0).id}
    assert {type(outcome) for outcome in rest.join().values()} == {BrokerFull}
    assert door.publish(message(9)) == message(9).id


def test_each_caller_raises_an_error_of_its_own() -> None:
    scripted = Scripted("own")
    shared = BrokerFull("no room")
    door = door_to(scripted)
    gate = Gate(raising(shared))
    scripted.script = [gate]
    producer = App("memory://own")._producer
    producer._door = door
    first = Callers(producer, [0])
    assert gate.entered.wait(PATIENCE)
    rest = Callers(producer, [1, 2])
    waiting(door, 2)
    scripted.script = [raising(shared)]
    gate.open.set()
    outcomes = [*first.join().values(), *rest.join().values()]
    assert [type(outcome) for outcome in outcomes] == [BrokerFull] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3


def test_ctrl_c_in_the_thread_at_work_is_not_the_others_affair() -> None:
    scripted = Scripted("interrupted")

    def interrupted(messages: Sequence[Message]) -> list[Published]:
        scripted.broker.publish(messages)
        raise KeyboardInterrupt

    door, gate, first = occupied(scripted, interrupted)
    rest = Callers(door, [1, 2, 3])
    waiting(door, 3)
    gate.open.set()
    first.join()
    outcomes = list(rest.join().values())
    assert [type(outcome) for outcome in outcomes].count(KeyboardInterrupt) == 1
    assert sum(isinstance(outcome, bytes) for outcome in outcomes) == 2
    # Asked again with the same ids, so nothing is there twice.
    claimed = scripted.broker.claim(["default"], 100).leases
    assert sorted(lease.message.id for lease in claimed) == [message(n).id for n in range(4)]


def test_enqueueing_from_within_an_enqueue_is_an_error_and_no_deadlock() -> None:
    scripted = Scripted("reentrant")
    door = door_to(scripted)
    met: list[BaseException] = []

    def handler(messages: Sequence[Message]) -> list[Published]:
        try:
            door.publish(message(2))
        except BrokerBusy as error:
            met.append(error)
        return scripted.broker.publish(messages)

    scripted.script = [handler]
    assert door.publish(message(1)) == message(1).id
    assert "called from a signal handler" in str(met[0])
    assert scripted.batches == [[message(1).id]]


def test_a_lost_answer_is_asked_for_again_with_the_same_id() -> None:
    scripted = Scripted("unknown")

    def half_lost(messages: Sequence[Message]) -> list[Published]:
        scripted.broker.publish(messages)
        return [Stored(), *[Unknown()] * (len(messages) - 1)]

    handle = Handle(lambda: scripted)  # type: ignore[arg-type, return-value]
    ids = [message(n).id for n in range(3)]
    scripted.script = [half_lost, raising(PublishUnknown("connection lost"))]
    assert handle.publish([message(n) for n in range(3)]) == ids
    assert scripted.batches == [ids, ids[1:], ids[1:]]
    assert len(scripted.broker.claim(["default"], 9).leases) == 3


def test_an_answer_that_stays_lost_is_an_error_that_says_so() -> None:
    scripted = Scripted("lost")
    # A later try that failed for certain says nothing of the first.
    down = raising(BrokerUnavailable("gone"))
    scripted.script = [answering(Unknown()), down, down]
    (verdict,) = Handle(lambda: scripted).publish([message(1)])  # type: ignore[arg-type, return-value]
    assert isinstance(verdict, PublishUnknown)
    assert "it may or may not be there" in str(verdict)
    assert f"the job {as_text(message(1).id)} of" in str(verdict), "as `dibs jobs show` takes it"
    assert len(scripted.batches) == 3


def small(name: str) -> Scripted:
    scripted = Scripted(name)
    scripted.capabilities = replace(scripted.capabilities, batch_limit=4)
    return scripted


def test_more_than_a_broker_takes_at_once_is_published_in_parts() -> None:
    scripted = small("parts")
    batch = [message(number) for number in range(10)]
    assert door_to(scripted).publish_batch(batch) == [one.id for one in batch]
    assert [len(part) for part in scripted.batches] == [4, 4, 2]


def test_after_a_part_that_is_not_stored_no_other_is_sent() -> None:
    scripted = small("part")
    error = BrokerFull("no room")
    scripted.script = [scripted.broker.publish, raising(error)]
    batch = [message(number) for number in range(10)]
    verdicts = door_to(scripted).publish_batch(batch)
    assert verdicts == [one.id for one in batch[:4]] + [error] * 6
    assert len(scripted.batches) == 2


def test_a_duplicate_is_the_first_job() -> None:
    scripted = Scripted("duplicate")
    scripted.script = [answering(Duplicate(b"first" * 3 + b"!"))]
    assert door_to(scripted).publish(message(1)) == b"first" * 3 + b"!"


def test_a_thousand_coroutines_enqueue_without_blocking_their_loop(app: App) -> None:
    async def main() -> list[bytes]:
        jobs = await asyncio.gather(*(task_of(app).aenqueue(str(n)) for n in range(1_000)))
        return [job.key for job in jobs]

    keys = asyncio.run(main())
    assert len(set(keys)) == 1_000
    assert sorted(texts(app)) == sorted(b'{"text":"%d"}' % n for n in range(1_000))


def test_a_loop_resumes_a_few_coroutines_a_turn_however_many_batches_are_answered() -> None:
    async def turns() -> list[int]:
        loop = asyncio.get_running_loop()
        answering, futures = Answering(loop), [loop.create_future() for _ in range(300)]
        for at in range(0, 300, 100):
            answering.send([(future, b"an id") for future in futures[at : at + 100]])
        resumed = [0]
        while resumed[-1] < len(futures):
            await asyncio.sleep(0)
            resumed.append(sum(future.done() for future in futures))
        return [now - before for before, now in pairwise(resumed)]

    assert asyncio.run(turns()) == [RESOLVED_AT_ONCE] * 6


def test_answers_that_come_while_others_are_given_are_given_too() -> None:
    async def all_of(count: int) -> None:
        loop = asyncio.get_running_loop()
        answering, futures = Answering(loop), [loop.create_future() for _ in range(count)]

        def send() -> None:
            for future in futures:
                answering.send([(future, b"an id")])

        async with asyncio.timeout(10):
            await asyncio.to_thread(send)
            await asyncio.gather(*futures)

    asyncio.run(all_of(5_000))


def test_a_cancelled_wait_harms_neither_the_job_nor_the_others(app: App) -> None:
    async def main() -> None:
        calls = [asyncio.ensure_future(task_of(app).aenqueue(str(n))) for n in range(10)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(outcome, asyncio.CancelledError) for outcome in done] == [
            True,
            False,
        ] * 5

    asyncio.run(main())
    asyncio.run(task_of(app).aenqueue("last"))
    assert len(texts(app)) == 11


def test_a_loop_that_is_gone_does_not_stop_the_others(app: App) -> None:
    async def hasty() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(task_of(app).aenqueue("from a loop that ends"), 0)

    asyncio.run(hasty())
    asyncio.run(task_of(app).aenqueue("b"))
    assert b'{"text":"b"}' in texts(app)


def test_several_event_loops_and_threads_go_through_one_door(app: App) -> None:
    async def many(who: str) -> None:
        await asyncio.gather(*(task_of(app).aenqueue(f"{who}{n}") for n in range(100)))

    work = [
        lambda: asyncio.run(many("a")),
        lambda: asyncio.run(many("b")),
        lambda: [task_of(app).enqueue(f"c{n}") for n in range(100)],
        lambda: app.enqueue_many(task_of(app).bind(f"d{n}") for n in range(3_000)),
    ]
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(set(texts(app))) == 3_300


@pytest.mark.parametrize("going_on", ["closed", "redirected"])
def test_a_stream_goes_on_when_its_app_is_closed_or_redirected(
    app: App, tmp_path: Path, going_on: str
) -> None:
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"

    def calls() -> Iterator[BoundCall]:
        for number in range(5_000):
            if number == 2_500:
                app.close() if going_on == "closed" else app.redirect(elsewhere)
            yield task_of(app).bind(str(number))

    stored: list[int] = []
    thread = threading.Thread(target=lambda: stored.append(app.enqueue_many(calls())), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert stored == [5_000]
    there = [] if going_on == "closed" else texts(app)
    app.redirect(f"sqlite:///{tmp_path}/producer.db")
    assert [*texts(app), *there] == [b'{"text":"%d"}' % number for number in range(5_000)]


def test_what_a_coroutine_enqueues_while_its_app_is_closed_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App("memory://closing")
    task = app.task(note)
    publish = Publisher.publish
    closers: list[threading.Thread] = []

    def closed_meanwhile(publisher: Publisher, message: Message) -> "asyncio.Future[bytes]":
        closers.append(threading.Thread(target=app.close))
        closers[-1].start()
        return publish(publisher, message)

    monkeypatch.setattr(Publisher, "publish", closed_meanwhile)

    async def enqueue() -> None:
        async with asyncio.timeout(PATIENCE):
            for number in range(200):
                await task.aenqueue(str(number))

    with interpreter_kept():  # or whoever closes is not at it yet
        asyncio.run(enqueue())
    for closer in closers:
        closer.join(PATIENCE)
    app.close()


def test_threads_that_stream_for_the_first_time_share_one_publisher() -> None:
    others = set(threading.enumerate())
    for number in range(50):
        app = App(f"memory://first-{number}")
        call = app.task(note).bind("x")
        start = threading.Barrier(4)

        def stream(
            app: App = app, call: BoundCall = call, start: threading.Barrier = start
        ) -> None:
            start.wait()
            app.enqueue_many([call])

        threads = [threading.Thread(target=stream) for _ in range(4)]
        with interpreter_given_away():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
        app.close()
        left = set(threading.enumerate()) - others
        assert "dibs-publisher" not in {thread.name for thread in left}


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child, and assert that it ended well."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))
        status = 1
        with suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_parent_and_child_both_enqueue_after_a_fork(app: App) -> None:
    task = task_of(app)
    keys = {task.enqueue("before").key}

    def child() -> None:
        assert task.enqueue("child").key not in keys
        asyncio.run(task.aenqueue("child async"))
        assert app.enqueue_many([task.bind("child many")]) == 1
        app.close()

    asyncio.run(task.aenqueue("starts the thread"))
    in_child(child)
    task.enqueue("after")
    assert len(texts(app)) == 6


def test_a_fork_while_another_thread_has_the_door(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(app)
    task.enqueue("before")
    gate = Gate(lambda messages: [message.id for message in messages])
    monkeypatch.setattr(app._producer._handle, "publish", gate)
    holder = threading.Thread(target=lambda: task.enqueue("held"))
    holder.start()
    assert gate.entered.wait(PATIENCE)

    def child() -> None:
        monkeypatch.undo()
        task.enqueue("child")

    try:
        in_child(child)
    finally:  # or it waits on into the tests that come after this one
        gate.open.set()
        holder.join(PATIENCE)
    assert texts(app) == [b'{"text":"before"}', b'{"text":"child"}']


def test_a_child_of_a_broker_in_memory_is_told_that_nobody_would_see_its_jobs() -> None:
    app = App("memory://forked")
    task = app.task(note)
    task.enqueue("before")

    def child() -> None:
        with pytest.raises(BrokerUnavailable, match="this one is a fork of it"):
            task.enqueue("child")

    in_child(child)
    task.enqueue("after")
    app.close()


def test_what_is_on_its_way_at_exit_is_stored_and_the_broker_closed(tmp_path: Path) -> None:
    import subprocess

    program = (
        "from dibs import App\n"
        "app = App('sqlite:///exit.db')\n"
        "@app.task\n"
        "def note(text: str) -> None: ...\n"
        "note.enqueue('a')\n"
        "app.enqueue_many(note.bind(str(n)) for n in range(2000))\n"
        "print(app.url)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert not list(tmp_path.glob("exit.db-wal"))  # the last to close cleans up


def test_interrupted_on_its_way_into_the_queue_nobody_stays_there() -> None:
    """Whoever leaves wakes the first in the queue alone, and that one must be alive."""
    door, gate, inside = occupied(Scripted("ghost"))

    def is_second(frame: FrameType) -> bool:
        is_wait = frame.f_code is Waiter.wait.__code__
        return is_wait and frame.f_locals["self"].signal is not None

    for number, interrupt in enumerate(each_step("producer/door.py", last=is_second), 1):
        with interrupt:
            door.publish(message(number))
        assert not door._waiting, f"interrupted at step {number}"
    gate.open.set()
    inside.join()


def test_interrupted_at_any_step_a_batch_leaves_the_door_open() -> None:
    door = door_to(Scripted("batch"))
    for number, interrupt in enumerate(each_step("producer/door.py")):
        with interrupt:
            door.publish_batch([message(number)])
        assert door._lock.acquire(blocking=False), f"interrupted at step {number}"
        assert door._inside is None
        door._lock.release()
        other = Callers(door, [1_000 + number])
        assert other.join() == {1_000 + number: message(1_000 + number).id}


def test_interrupted_at_any_step_a_thread_leaves_nobody_waiting_whom_it_took_along() -> None:
    scripted = Scripted("along")
    door = door_to(scripted)
    queueing: Queueing | None = None

    def others_wait() -> bool:
        return queueing is not None and queueing.callers is not None

    for step, interrupt in enumerate(each_step("producer/door.py", others_wait)):
        ours, *theirs = range(4 * step, 4 * step + 4)
        queueing = Queueing(door, theirs[:2], scripted.broker.publish)
        scripted.script = [queueing]
        with interpreter_kept(), interrupt:
            door.publish_batch([message(ours)])
            door.publish_batch([message(theirs[2])])
        assert queueing.callers is not None
        assert queueing.callers.join() == {n: message(n).id for n in theirs[:2]}, step
        assert not door._waiting, f"interrupted at step {step}"


def test_interrupted_at_any_moment_an_enqueue_leaves_the_door_open(tmp_path: Path) -> None:
    """A signal's handler may raise right after the door was taken: others must still get in."""
    app = App(f"memory://{tmp_path}")
    task = app.task(note)
    task.enqueue("first")
    chance = random.Random(4)
    interrupted = 0
    with raising_alarm():
        for _ in range(10_000):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 0.000_06))
                task.enqueue("x")
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    assert interrupted > 100
    later = threading.Thread(target=task.enqueue, args=("last",), daemon=True)
    later.start()
    later.join(PATIENCE)
    assert not later.is_alive()
    app.close()
