"""`dibs worker`: its banner, its lines, how it stops, and what it refuses."""

import ctypes
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.workers import alive

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., Any]

FIRST_COMMANDS = [
    ["worker", "shop:app"],
    ["queues"],
    ["enqueue", "shop:app", "add", "--arg", "a=1"],
]
"""All that open a queue file for somebody who may be wrong about it."""


def enqueue(dibs: Run, task: str, *arguments: str) -> str:
    """Enqueue a job; return its id."""
    pairs = [part for argument in arguments for part in ("--arg", argument)]
    sent = dibs("enqueue", "shop:app", task, *pairs)
    assert sent.returncode == 0, sent.stderr
    return sent.stdout.strip()


def test_the_banner_says_where_how_durably_and_what(dibs: Run, folder: Path) -> None:
    shown = dibs("worker", "shop:app", "--drain", "-c", "7", "--processes", "2")
    assert shown.returncode == 0
    assert not shown.stdout
    lines = shown.stderr.splitlines()
    assert lines[0].startswith("dibs 0.")
    assert f"  broker   {folder}/dibs.db (was not there: created)" in lines
    assert "  durable  D2, SQLite WAL, synchronous=FULL" in lines
    assert "  queues   default, mail, slow, doomed" in lines
    assert "  tasks    add (thread, queue default)" in lines
    assert "           send (async, queue mail)" in lines
    assert "  slots    7 in 2 processes" in lines
    assert "created" not in dibs("worker", "shop:app", "--drain").stderr


def test_drain_does_what_is_ready_and_ends(dibs: Run) -> None:
    for number in range(3):
        enqueue(dibs, "add", f"a={number}")
    shown = dibs("worker", "shop:app", "--drain")
    assert shown.returncode == 0
    assert "stopped; in all 3 done" in shown.stderr.splitlines()[-1]


def test_a_failure_is_told_once_with_what_happens_next(dibs: Run) -> None:
    job = enqueue(dibs, "send", "to=me")
    shown = dibs("worker", "shop:app", "--drain").stderr
    assert shown.count(f"send {job} failed (attempt 1): retry in ") == 1
    assert "(failure 1 of 2)" in shown
    assert shown.count("ValueError: no such \\x1b[31mbox: me") == 1
    assert 'raise ValueError(f"no such' in shown
    assert "\x1b" not in shown, "no escape, neither ours nor a task's"


def test_a_dead_letter_names_its_reason(dibs: Run) -> None:
    enqueue(dibs, "doomed")
    shown = dibs("worker", "shop:app", "--drain").stderr
    assert "failed (attempt 1): dead letter: max_attempts after 1" in shown
    assert "1 dead" in shown.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_jobs_finish(
    dibs: Run, start: Start, folder: Path, number: int
) -> None:
    enqueue(dibs, "hold", "name=one")
    worker = start("worker", "shop:app")
    worker.line_with("holding one")
    worker.signal(number)
    worker.line_with("stopping: 1 job held here, 30 s to finish")
    (folder / "one.go").touch()
    code, printed = worker.end()
    assert code == 0
    assert "stopped; in all 1 done" in printed


def test_a_second_signal_ends_at_once_and_says_so_by_its_exit_code(dibs: Run, start: Start) -> None:
    enqueue(dibs, "hold", "name=one")
    worker = start("worker", "shop:app")
    worker.line_with("holding one")
    worker.signal()
    worker.line_with("stopping")
    worker.signal()
    code, printed = worker.end()
    assert code == 1
    assert "1 released" in printed
    assert '"ready":1' in dibs("queues", "--json").stdout


def test_an_idle_worker_stops_at_once(start: Start) -> None:
    worker = start("worker", "shop:app")
    worker.line_with("slots")
    worker.signal()
    code, printed = worker.end()
    assert code == 0
    assert printed.splitlines()[-1].endswith("stopped; no job was settled")


def test_in_process_works_and_says_what_it_is(dibs: Run) -> None:
    enqueue(dibs, "add", "a=1")
    shown = dibs("worker", "shop:app", "--drain", "--in-process")
    assert shown.returncode == 0
    assert "in this very process: for debugging" in shown.stderr
    assert "1 done" in shown.stderr.splitlines()[-1]


def test_reload_starts_anew_when_a_file_changes(start: Start, folder: Path) -> None:
    worker = start("worker", "shop:app", "--reload")
    worker.line_with("slots")
    code = (folder / "shop.py").read_text()
    (folder / "shop.py").write_text(code + "\n@app.task\ndef newer() -> None: ...\n")
    worker.line_with("shop.py changed: starting anew")
    worker.line_with("newer (thread, queue default)")
    (folder / "shop.py").write_text("this is no python")
    worker.line_with("SyntaxError")
    worker.line_with("waiting for a file to change")
    (folder / "shop.py").write_text(code)
    worker.line_with("slots")
    tasks = Path(f"/proc/{worker.process.pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    assert children
    assert all(alive(child) for child in children), "and no zombie of the times before"
    worker.signal()
    assert worker.end()[0] == 0


def test_what_looks_wrong_is_warned_of(dibs: Run, folder: Path) -> None:
    shown = dibs("worker", "shop:app", "--drain", "-q", "default,mial").stderr
    assert "warning: no task of the app is in queue mial, and no job; there are" in shown
    (folder / "empty.py").write_text("from dibs import App\napp = App()\n")
    assert "warning: empty:app has no tasks" in dibs("worker", "empty:app", "--drain").stderr


def test_a_queue_of_no_task_that_has_jobs_is_no_mistake(dibs: Run) -> None:
    dibs("enqueue", "shop:app", "add", "--arg", "a=1", "--queue", "urgent")
    shown = dibs("worker", "shop:app", "--drain", "-q", "default,urgent").stderr
    assert "warning" not in shown
    assert "1 done" in shown


@pytest.mark.parametrize(
    ("dies", "how"), [("os._exit(3)", "exit code 3"), ("os.abort()", "signal SIGABRT")]
)
def test_an_app_whose_import_ends_the_process_is_named(
    dibs: Run, folder: Path, dies: str, how: str
) -> None:
    (folder / "fatal.py").write_text(f"import os\n{dies}\n")
    ended = dibs("worker", "fatal:app")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"dibs: a runner process died while it imported fatal:app: {how}; see whether"
        " `python -c 'import fatal'` dies of it too\n"
    )


def test_a_reader_that_is_gone_does_not_end_the_worker(
    dibs: Run, folder: Path, environment: dict[str, str]
) -> None:
    for number in range(20):
        enqueue(dibs, "doomed") if number % 2 else enqueue(dibs, "add", "a=1")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dibs", "worker", "shop:app", "--drain"]
    ended = subprocess.run(
        command, cwd=folder, env=environment, stderr=writer, timeout=30, check=False
    )
    os.close(writer)
    assert ended.returncode == 0
    assert '"ready":1' not in dibs("queues", "--json").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["shop:app", "--url", "memory://"], "work in the process that enqueues"),
        (["shop:app", "--url", "bla"], "bla is no broker's URL"),
        (["shop:app", "--url", "sqlite:///no/where/x.db"], "there is no folder"),
        (["shop:app", "--url", "sqlite:///shop.py"], "shop.py"),
        (["shop:app", "-q", "a b"], "queue name 'a b' is not 1 to 60 of"),
        (["shop:app", "-q", "a,,b"], "queue name '' is not"),
        (["shop:app", "-c", "0"], "-c"),
        (["shop:app", "--shutdown-timeout", "nan"], "--shutdown-timeout nan"),
        (["shop:app", "--reload", "--in-process"], "leave out --in-process"),
        (["shop:nope"], "it has shop:app"),
        (["nope:app"], "there is no module 'nope' here"),
    ],
)
def test_a_mistake_is_one_clear_line(dibs: Run, arguments: list[str], text: str) -> None:
    shown = dibs("worker", *arguments)
    assert shown.returncode == 2
    assert text in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("shop.py", "name its module: `shop:app`"),
        ("./shop.py:app", "name its module: `shop:app`"),
        ("pkg/tasks.py:this", "name its module: `pkg.tasks:this`"),
        ("../shop.py:app", "is not of the form module:app"),
        ("./none.py:app", "is not of the form module:app"),
    ],
)
def test_a_file_in_the_place_of_the_module_is_told_the_module(
    dibs: Run, folder: Path, path: str, text: str
) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "tasks.py").touch()
    shown = dibs("worker", path)
    assert shown.returncode == 2
    assert text in shown.stderr


def test_an_app_that_does_not_import_shows_its_own_traceback(dibs: Run, folder: Path) -> None:
    (folder / "broken.py").write_text("from dibs import App\napp = App()\nprint(1 / 0)\n")
    for command in (["worker", "broken:app"], ["enqueue", "broken:app", "x"]):
        shown = dibs(*command)
        assert shown.returncode == 2
        assert "importing 'broken' failed" in shown.stderr
        assert 'broken.py", line 3' in shown.stderr
        assert "ZeroDivisionError: division by zero" in shown.stderr
        assert "dibs/cli" not in shown.stderr, "nothing of ours"


def test_a_worker_with_a_task_whose_annotations_cannot_be_resolved_does_not_start(
    dibs: Run, folder: Path
) -> None:
    """Each of its jobs would be a dead letter at its first attempt."""
    lines = (
        "from dibs import App\napp = App()\n"
        "@app.task(keep_result={keep})\ndef f(n: {}) -> {}: ...\n"
    )
    (folder / "typed.py").write_text(lines.format("'OrderId'", None, keep=1))
    (folder / "mixed.py").write_text(lines.format("int", "bytes | str", keep=1))
    (folder / "fine.py").write_text(lines.format("int", "bytes | str", keep=0))
    for more in ([], ["--in-process"]):
        typed, mixed = (dibs("worker", f"{m}:app", "--drain", *more) for m in ("typed", "mixed"))
        assert (typed.returncode, mixed.returncode) == (2, 2)
        assert "dibs: `f`: an annotation cannot be resolved: name 'OrderId'" in typed.stderr
        assert "dibs: `f`: what it returns: Type unions may not" in mixed.stderr
        assert "slots" not in typed.stderr + mixed.stderr
        assert dibs("worker", "fine:app", "--drain", *more).returncode == 0


def test_enqueueing_while_the_worker_imports_is_refused(dibs: Run, folder: Path) -> None:
    (folder / "eager.py").write_text(
        "from dibs import App\napp = App()\n@app.task\ndef f() -> None: ...\nf.enqueue()\n"
    )
    for more in ([], ["--in-process"]):
        shown = dibs("worker", "eager:app", "--drain", *more)
        assert shown.returncode == 2
        assert "eager.py" in shown.stderr


def test_another_programs_database_is_refused(dibs: Run, folder: Path) -> None:
    with sqlite3.connect(folder / "other.db") as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    shown = dibs("worker", "shop:app", "--url", "sqlite:///other.db")
    assert shown.returncode == 2
    assert "another program's database" in shown.stderr


def test_a_newer_schema_is_refused(dibs: Run, folder: Path) -> None:
    enqueue(dibs, "add", "a=1")
    with sqlite3.connect(folder / "dibs.db") as queue:
        queue.execute("PRAGMA user_version = 99")
    queue.close()
    for command in FIRST_COMMANDS:
        shown = dibs(*command)
        assert shown.returncode == 2
        assert "upgrade dibs" in shown.stderr
        assert "Traceback" not in shown.stderr


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def obey_modes() -> None:
    """In a child that is root: give up, for what it starts, the right to write anything."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.skipif(
    os.geteuid() == 0 and sys.platform != "linux", reason="only Linux has a root that obeys modes"
)
@pytest.mark.parametrize("command", FIRST_COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("closed", [("dibs.db", 0o400), ("dibs.db", 0), (".", 0o500)])
def test_what_may_not_be_written_is_refused(
    dibs: Run,
    folder: Path,
    environment: dict[str, str],
    command: list[str],
    closed: tuple[str, int],
) -> None:
    enqueue(dibs, "add", "a=1")
    what, mode = closed
    (folder / what).chmod(mode)
    shown = subprocess.run(
        [sys.executable, "-m", "dibs", *command],
        cwd=folder,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=obey_modes,
    )
    (folder / what).chmod(0o700)
    assert shown.returncode == 2
    assert not shown.stdout
    (line,) = shown.stderr.splitlines()
    assert line.startswith(f"dibs: {folder}/dibs.db: this user (uid {os.geteuid()}) may not ")
    assert line.count(str(folder)) == 1
    assert ": change the owner or mode of " in line
