"""`dibs` itself, `dibs enqueue` and `dibs queues`: what they print, and how they end."""

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from dibs.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
QUEUE_KEYS = ["name", "ready", "scheduled", "in_flight", "dead", "oldest_ready_seconds", "paused"]


HELPED = [
    [],
    *(["worker"], ["enqueue"], ["demo"], ["queues"], ["jobs"], ["dlq"]),
    *(["queues", verb] for verb in ("list", "pause", "resume", "purge")),
    *(["jobs", verb] for verb in ("list", "show")),
    *(["ledger"], ["ledger", "prune"]),
    *(["dlq", verb] for verb in ("list", "show", "redrive", "discard")),
]


def test_every_help_has_examples(dibs: Run) -> None:
    for command in HELPED:
        shown = dibs(*command, "--help")
        assert shown.returncode == 0
        assert "Examples:\n    dibs " in shown.stdout, command


def test_the_version(dibs: Run) -> None:
    assert dibs("--version").stdout.startswith("dibs 0.")


def test_a_wrong_command_is_told_the_right_one(dibs: Run) -> None:
    shown = dibs("wroker")
    assert shown.returncode == 2
    assert "there is no command `wroker`; did you mean `worker`?" in shown.stderr


def test_enqueue_prints_the_id_and_queues_shows_the_job(dibs: Run) -> None:
    first = dibs("enqueue", "shop:app", "add", "--arg", "a=1")
    assert first.returncode == 0, first.stderr
    UUID(first.stdout.strip())
    dibs("enqueue", "shop:app", "add", "--arg", "a=1", "--delay", "600", "--queue", "later")

    shown = dibs("queues", "shop:app", "--json")
    assert shown.returncode == 0
    data = json.loads(shown.stdout)
    assert list(data) == ["queues"]
    assert [list(queue) for queue in data["queues"]] == [QUEUE_KEYS] * 2
    ready, later = data["queues"]
    assert (ready["name"], ready["ready"], ready["scheduled"]) == ("default", 1, 0)
    assert ready["oldest_ready_seconds"] >= 0
    assert (later["name"], later["ready"], later["scheduled"]) == ("later", 0, 1)
    assert later["oldest_ready_seconds"] is None


def test_the_table_is_aligned(dibs: Run) -> None:
    for name in ("short", "a-much-longer-name"):
        dibs("enqueue", "shop:app", "add", "--arg", "a=1", "--queue", name)
    lines = dibs("queues").stdout.splitlines()
    assert lines[0].split("  ")[0] == "queue"
    assert {len(line) for line in lines} == {len(lines[0])}


def test_the_url_goes_before_the_app_and_the_app_before_the_environment(
    dibs: Run, folder: Path
) -> None:
    dibs("enqueue", "shop:app", "add", "--arg", "a=1", DIBS_URL="sqlite:///env.db")
    assert (folder / "env.db").exists()
    dibs("enqueue", "shop:app", "add", "--arg", "a=1", "--url", "sqlite:///url.db")
    assert (folder / "url.db").exists()
    assert (
        "default" in dibs("queues", "--url", "sqlite:///url.db", DIBS_URL="sqlite:///no.db").stdout
    )
    assert not (folder / "dibs.db").exists()


def test_no_queues_yet_is_said(dibs: Run) -> None:
    dibs("worker", "shop:app", "--drain", "-q", "default")
    other = dibs("queues")
    assert other.returncode == 0


def test_looking_does_not_make_a_file(dibs: Run, folder: Path) -> None:
    shown = dibs("queues", "--url", "sqlite:///typo.db")
    assert shown.returncode == 2
    assert f"there is no queue file {folder}/typo.db" in shown.stderr
    assert not (folder / "typo.db").exists()
    unnamed = "Else name the app, as in `dibs queues photos:app`"
    assert unnamed in dibs("queues").stderr
    for named in (["queues", "shop:app"], ["doctor", "shop:app"], ["queues", "--url", "a.db"]):
        assert unnamed not in dibs(*named).stderr


def test_values_are_json_where_they_read_as_json(dibs: Run, folder: Path) -> None:
    (folder / "many.py").write_text(
        "from datetime import date\nfrom pathlib import Path\nfrom dibs import App\napp = App()\n"
        "@app.task\ndef echo(n: int, text: str, day: date, path: Path, tags: list[str]) -> None:\n"
        "    Path('out').write_text(repr((n, text, day, str(path), tags)))\n"
    )
    arguments = ["n=7", 'text="007"', "day=2026-01-31", "path=a b.jpg", 'tags=["x"]']
    pairs = [part for argument in arguments for part in ("--arg", argument)]
    sent = dibs("enqueue", "many:app", "echo", *pairs)
    assert sent.returncode == 0, sent.stderr
    assert dibs("worker", "many:app", "--drain").returncode == 0
    wanted = "(7, '007', datetime.date(2026, 1, 31), 'a b.jpg', ['x'])"
    assert (folder / "out").read_text() == wanted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["shop:app", "ad", "--arg", "a=1"], "there is no task `ad`; did you mean `add`?"),
        (["shop:app", "add", "--arg", "aa=1"], "`add` has no parameter `aa`; did you mean `a`?"),
        (["shop:app", "add", "--arg", "a=x"], "parameter `a`: expected `int`, got `str`"),
        (["shop:app", "add"], "`add`: parameter `a` is missing"),
        (["shop:app", "add", "--arg", "a"], "is not of the form name=value"),
        (["shop:app", "add", "--arg", "a=1", "--arg", "a=2"], "--arg a is given twice"),
        (["shop:app", "add", "--arg", "a=NaN"], "expected `int`, got `str`"),
        (["shop:app", "add", "--arg", "a=" + "[" * 100_000], "--arg a: its value is nested too"),
        (["shop:app", "add", "--arg", "a=1", "--delay", "-1"], "`delay` is -1.0"),
        (["shop:app", "add", "--arg", "a=1", "--delay", "1e99"], "`delay` is 1e+99"),
        (["shop:app", "add", "--arg", "a=1", "--delay", "nan"], "`delay` is nan"),
        (["shop:app", "add", "--arg", "a=1", "--queue", "a b"], "`queue` is 'a b'"),
        (["shop:nope", "add"], "'shop:nope' leads to no App"),
        (["nope:app", "add"], "there is no module 'nope' here"),
        (["no/pe", "add"], "is not of the form module:app"),
        (
            ["shop:app", "add", "a=1"],
            "'a=1' is one word too many: an argument is written --arg a=1",
        ),
        (["shop:app", "add", "1"], "an argument is written --arg NAME=VALUE"),
        (
            ["shop:app", "send", "--arg", "to=7"],
            "expected `str`, got `int`; text that reads as JSON is quoted: --arg to='\"7\"'",
        ),
        (
            ["shop:app", "add", "--arg", "a=1", "--url", "memory://x"],
            "in the memory of one process",
        ),
        (["shop:app", "add", "--arg", "a=1", "--url", "sqlte:///x"], "did you mean `sqlite`"),
    ],
)
def test_a_mistake_is_one_clear_line(
    dibs: Run, folder: Path, arguments: list[str], text: str
) -> None:
    shown = dibs("enqueue", *arguments)
    assert shown.returncode == 2
    assert text in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not shown.stdout
    assert not (folder / "dibs.db").exists(), "nothing was stored"


@FULL
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("line", ["enqueue shop:app add --arg a=1", "queues --json", "--help"])
def test_an_output_that_cannot_be_written_is_one_line_and_what_was_done_stays_done(
    dibs: Run, shell: Run, line: str, unbuffered: str
) -> None:
    dibs("enqueue", "shop:app", "add", "--arg", "a=1")
    ended = shell(f"{line} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 2
    assert ended.stderr == (
        "dibs: the output cannot be written: No space left on device; what the command had done"
        " by then stays done\n"
    )
    jobs = 2 if "enqueue" in line else 1
    assert f'"ready":{jobs}' in dibs("queues", "--json").stdout


@pytest.mark.parametrize(("closed", "name"), [(">&-", "stdout"), ("2>&-", "stderr")])
def test_with_its_output_closed_nothing_is_begun(
    shell: Run, folder: Path, closed: str, name: str
) -> None:
    ended = shell(f"enqueue shop:app add --arg a=1 {closed}")
    assert ended.returncode == 2
    said = ended.stdout + ended.stderr
    assert said.startswith(f"dibs: the output cannot be written: {name} is closed")
    assert said.count("\n") == 1
    assert not (folder / "dibs.db").exists(), "nothing was stored"


@FULL
def test_a_mistake_that_cannot_be_told_is_a_mistake_still(shell: Run) -> None:
    assert shell("queues list no_such:app 2>/dev/full").returncode == 2


def test_an_error_of_the_system_that_is_not_of_the_output_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.delenv("DIBS_URL", raising=False)
    monkeypatch.setattr(os, "getcwd", fail)
    with pytest.raises(OSError, match="No space left"):
        main(["queues"])
