"""Tasks that behave well and tasks that do not; runners in the tests import this file."""

import asyncio
import builtins
import contextlib
import contextvars
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from dibs import App, Reject, Retry, Snooze, context
from dibs.backoff import fixed
from dibs.errors import ResultError

app = App("sqlite:///zoo.db")
colour = contextvars.ContextVar("colour", default="none")
NOTES = Path("notes.txt").absolute()


def note(text: str) -> None:
    """Append a line, in one write, to the file that the test reads."""
    with NOTES.open("a") as file:
        file.write(text + "\n")


def is_there(name: str) -> bool:
    """Whether the test has made a file."""
    return Path(name).exists()


def how_many_started() -> int:
    """Return how many runs have noted their start."""
    return NOTES.read_text().count("what=start") if NOTES.exists() else 0


def note_run(what: str, n: int = 0) -> None:
    """Note what happens now, in which run and where."""
    note_at(time.monotonic(), what, n)


def note_at(at: float, what: str, n: int) -> None:
    """Note a moment, in which run and where."""
    run = f"fence={context().fence} attempt={context().attempt}"
    where = f"pid={os.getpid()} pump={os.getppid()} slots={sys.argv[-2]}"
    note(f"what={what} n={n} {run} {where} at={at}")


@app.task
async def quick(n: int) -> None:
    """Do nothing."""


@app.task
def quick_def(n: int) -> None:
    """Do nothing."""


@app.task
async def noted(n: int) -> None:
    note(f"noted {n} attempt {context().attempt} fence {context().fence}")


@app.task
def noted_def(n: int) -> None:
    note(f"noted {n} attempt {context().attempt} fence {context().fence}")


@app.task
async def paint(new: str) -> None:
    note(f"was {colour.get()}")
    colour.set(new)


@app.task
def paint_def(new: str) -> None:
    note(f"was {colour.get()}")
    colour.set(new)


@app.task
async def fails(text: str) -> None:
    raise ValueError(text)


@app.task
def leaves() -> None:
    sys.exit("bye")


@app.task
async def leaves_async() -> None:
    sys.exit("bye")


@app.task
async def cancels_itself() -> None:
    me = asyncio.current_task()
    assert me is not None
    me.cancel()


@app.task
async def sleeps(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task
async def swallows_cancel(seconds: float) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(seconds)
    note(f"stop reason {context().stop_reason}")


@app.task
def waits_for_stop() -> None:
    job = context()
    while job.stop_reason is None:
        time.sleep(0.01)
    note(f"stop reason {job.stop_reason}")


@app.task
def waits_for_file(name: str) -> None:
    note(f"waiting {os.getpid()}")
    while not Path(name).exists():
        time.sleep(0.01)


@app.task
async def awaits_file(name: str) -> None:
    note(f"waiting {os.getpid()}")
    while not is_there(name):  # noqa: ASYNC110 - a file sets no event
        await asyncio.sleep(0.01)


@app.task(max_crashes=2)
async def segfaults() -> None:
    note(f"crashing {os.getpid()} attempt {context().attempt}")
    ctypes.string_at(0)


@app.task(max_crashes=2)
def exits_hard() -> None:
    note(f"crashing {os.getpid()} attempt {context().attempt}")
    os._exit(7)


@app.task
def returns_object() -> object:
    return threading.Lock()


@app.task
def returns_nan() -> float:
    return float("nan")


@app.task
def returns_much() -> str:
    return "x" * ((1 << 20) - 1)  # and two quotes


@app.task
def returns_snooze() -> object:
    return Snooze(60)


@app.task
def reads_what_does_not_fit() -> None:
    raise ResultError("what `another` returned does not fit its return annotation")


@app.task
def returns_text(n: int) -> str:
    return "x" * n


class Answer(Struct):
    n: int
    at: datetime


@app.task
async def answers(n: int) -> Answer:
    return Answer(n, datetime(2030, 1, 1, tzinfo=UTC))


@app.task
def answers_def(n: int) -> Answer:
    return Answer(n, datetime(2030, 1, 1, tzinfo=UTC))


@app.task(idempotency_key="keyed-{n}", visibility_timeout=1)
async def keyed(n: int) -> str:
    note_run("keyed", n)
    return f"by {context().job_id}"


@app.task(idempotency_key="keyed-{n}", visibility_timeout=1)
def keyed_def(n: int) -> None:
    note_run("keyed_def", n)
    if n < 0 and context().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # after the effect, and before anybody hears of it


@app.task(backoff=fixed(0), max_attempts=3)
async def fails_thrice(n: int) -> Answer:
    raise ValueError(f"{n}, attempt {context().attempt}")


@app.task(runs_in="process")
def alone() -> None:
    note(f"alone {os.getpid()}")


@app.task(runs_in="process", timeout=1)
def alone_for_ever() -> None:
    note(f"alone {os.getpid()}")
    signal.pause()


@app.task
def tell_who() -> None:
    note(f"who {os.getpid()} {threading.current_thread().name}")


# Tasks of tests with whole workers: they note each run, in a form that `workers.Note` reads.


@app.task
async def held(n: int) -> None:
    note_run("start", n)
    while not is_there("go"):  # noqa: ASYNC110 - a file sets no event
        await asyncio.sleep(0.01)
    note_run("end", n)


@app.task
def held_def(n: int) -> None:
    note_run("start", n)
    while not Path("go").exists():
        time.sleep(0.01)
    note_run("end", n)


@app.task
async def works(n: int, seconds: float = 0.0) -> None:
    note_run("start", n)
    await asyncio.sleep(seconds)
    note_run("end", n)


@app.task
def works_def(n: int, seconds: float = 0.0) -> None:
    note_run("start", n)
    time.sleep(seconds)
    note_run("end", n)


@app.task
async def once(n: int) -> None:
    note_run("once", n)


@app.task
def once_def(n: int) -> None:
    note_run("once", n)


@app.task(runs_in="process")
def apart(n: int) -> None:
    note_run("apart", n)


@app.task(runs_in="process")
def apart_for_ever(n: int) -> None:
    note_run("apart", n)
    signal.pause()


@app.task
def crashes(n: int, how: str) -> None:
    note_run(how, n)
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "pump":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()


@app.task
async def stops_the_worker(beside: int = 0) -> None:
    """Stop it once so many noted jobs run beside this one."""
    while how_many_started() < beside:  # noqa: ASYNC110 - a file sets no event
        await asyncio.sleep(0.001)
    os.kill(os.getppid(), signal.SIGTERM)


@app.task
async def blocks_loop(seconds: float) -> None:
    note_run("start", 1)
    time.sleep(seconds)  # noqa: ASYNC251 - as people do
    note_run("end", 1)


@app.task
def holds_interpreter(seconds: float) -> None:
    note_run("start", 2)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    note_run("end", 2)


@app.task
def hangs(n: int) -> None:
    note_run("start", n)
    threading.Event().wait()


@app.task
def deadlocks(seconds: float) -> None:
    note_run("start", 3)
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=seconds)


@app.task
async def deadlocks_async(seconds: float) -> None:
    note_run("start", 4)
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=seconds)


@app.task
async def sleeps_for_ever(n: int) -> None:
    note_run("start", n)
    await asyncio.Event().wait()


@app.task
def fans_out(n: int, children: int) -> None:
    for child in range(children):
        once.enqueue(n * children + child)
    note_run("fanned", n)


@app.task
async def fans_out_async(n: int, children: int) -> None:
    for child in range(children):
        await once_def.aenqueue(n * children + child)
    note_run("fanned", n)


# Tasks that say themselves what becomes of their job, in the first run; the second is done.


def ask(how: str) -> None:
    """Raise what is asked for, in the first run."""
    note_run(how)
    again = is_there(f"asked {how}")
    Path(f"asked {how}").touch()
    match "done" if again else how:
        case "retry":
            raise Retry("the shop is closed", after=0.4)
        case "retry_from":
            try:
                int("many")
            except ValueError as exc:
                raise Retry(after=0.4) from exc
        case "retry_plainly":
            raise Retry
        case "snooze":
            raise Snooze(0.4)
        case "reject":
            raise Reject("no such card")
        case "reject_from":
            try:
                int("many")
            except ValueError as exc:
                raise Reject("no such card") from exc


@app.task
async def asks(how: str) -> None:
    ask(how)


@app.task
def asks_def(how: str) -> None:
    ask(how)


@app.task(runs_in="process")
def asks_apart(how: str) -> None:
    ask(how)


@app.task(retry_on=KeyError, give_up_on=TimeoutError)
async def asks_too_late(how: str) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        ask(how)


@app.task(retry_on=KeyError, give_up_on=TimeoutError)
def asks_too_late_def(how: str) -> None:
    while context().stop_reason is None:
        time.sleep(0.01)
    ask(how)


@app.task(retry_on=(OSError,), give_up_on=(FileNotFoundError,), backoff=fixed(5))
async def picky(kind: str) -> None:
    raise getattr(builtins, kind)


@app.task(retry_on=(OSError,), give_up_on=(FileNotFoundError,), backoff=fixed(5))
def picky_def(kind: str) -> None:
    raise getattr(builtins, kind)


@app.task
async def told(n: int) -> None:
    note_run("start", n)
    note_at(context().deadline, "deadline", n)
    try:
        await asyncio.Event().wait()
    finally:
        note_run(str(context().stop_reason), n)


@app.task
def told_def(n: int) -> None:
    note_run("start", n)
    note_at(context().deadline, "deadline", n)
    while context().stop_reason is None:
        time.sleep(0.01)
    note_run(str(context().stop_reason), n)


@app.task(runs_in="process")
def told_apart(n: int) -> None:
    told_def.function(n)


# Tasks that misbehave in the process that they share with others.


class Boom(BaseException):
    """No Exception."""


@app.task
async def raises_base(kind: str) -> None:
    raise {"boom": Boom, "interrupt": KeyboardInterrupt, "generator": GeneratorExit}[kind]


@app.task
def raises_base_def(kind: str) -> None:
    raise {"boom": Boom, "interrupt": KeyboardInterrupt, "generator": GeneratorExit}[kind]


@app.task
def recurses(n: int) -> None:
    recurses.function(n + 1)


@app.task
async def recurses_async(n: int) -> None:
    await recurses_async.function(n + 1)


@app.task
def closes_descriptors(n: int) -> None:
    note_run("start", n)
    os.closerange(3, 256)


@app.task
async def closes_descriptors_async(n: int) -> None:
    note_run("start", n)
    os.closerange(3, 256)


@app.task
def changes_directory(n: int) -> None:
    os.chdir("/")
    once.enqueue(n)


@app.task
async def changes_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


@app.task
def leaves_threads() -> None:
    threading.Thread(target=threading.Event().wait).start()


@app.task
async def leaves_coroutines() -> None:
    left.add(asyncio.create_task(asyncio.sleep(3_600)))


left: set[object] = set()


@app.task
async def swallows_every_cancel(n: int) -> None:
    note_run("start", n)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


@app.task
def prints_much() -> None:
    for _ in range(4_000):
        print("x" * 1_000)


@app.task
def forks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        signal.pause()
    note_run("forked", child)


@app.task
def forks_and_returns_twice(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.fork()
    note_run("forked", n)


@app.task
async def weighs(n: int, ballast: str) -> None:
    note_run("weighed", n * bool(ballast))


@app.task
def starts_and_terminates() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


@app.task
def forgets_to_await() -> object:
    return asyncio.sleep(0)
