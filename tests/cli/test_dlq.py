"""`dibs dlq`: what it lists, what it asks, what it moves, and how it ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from dibs.brokers.contract import Broker
from dibs.message import DeadLetter, Error, Message, Settlement
from dibs.testing.making import claim, claim_all, message, messages, new_id, publish
from tests.cli.conftest import SECONDS

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ERROR = Error("TimeoutError", "no answer from \x1b[31mhost", "Traceback:\n  \x1b[31mhost")


def die(broker: Broker, *new: Message, error: Error = ERROR) -> list[str]:
    """Publish messages and give them up; return their ids as they are printed."""
    publish(broker, *new)
    for lease in claim(broker, *{one.queue for one in new}, limit=len(new)):
        broker.settle([Settlement(lease, DeadLetter("max_attempts", error))])
    return [str(UUID(bytes=one.id)) for one in new]


def listed(dibs: Run, *arguments: str) -> list[str]:
    """Return the ids that `dibs dlq list --json` finds."""
    shown = dibs("dlq", "list", "--json", *arguments)
    assert shown.returncode == 0, shown.stderr
    return [one["id"] for one in json.loads(shown.stdout)["dead_letters"]]


def test_a_list_is_newest_first_and_says_why(dibs: Run, broker: Broker) -> None:
    (first,) = die(broker, message(task="resize"))
    (second,) = die(broker, message(task="crop"))
    shown = dibs("dlq", "list")
    assert shown.returncode == 0
    heading, *rows = shown.stdout.splitlines()
    assert heading.split() == ["id", "task", "queue", "died", "why"]
    assert [row.split()[:3] for row in rows] == [
        [second, "crop", "photos"],
        [first, "resize", "photos"],
    ]
    assert "max_attempts: TimeoutError: no answer from \\x1b[31mhost" in rows[0]
    assert "\x1b" not in shown.stdout


def test_each_filter_and_all_together(dibs: Run, broker: Broker) -> None:
    (a,) = die(broker, message("a", task="resize", args=b'{"path":"a.jpg","width":64}'))
    (b,) = die(broker, message("b", task="crop"), error=Error("KeyError", "'x'"))
    assert listed(dibs) == [b, a]
    assert listed(dibs, "--queue", "a") == [a]
    assert listed(dibs, "--task", "crop") == [b]
    assert listed(dibs, "--error", "TimeoutError") == [a]
    assert listed(dibs, "--error", "timeouterror") == []
    assert listed(dibs, "--arg", "width=64") == [a]
    assert listed(dibs, "--arg", "width=64", "--arg", "path=b.jpg") == []
    assert listed(dibs, "--newer", "1h") == [b, a]
    assert listed(dibs, "--older", "1h") == []
    assert listed(dibs, "--older", "0s", "--queue", "b", "--task", "crop", "--error", "'x'") == [b]
    assert listed(dibs, a) == [a]
    assert listed(dibs, a, "--task", "crop") == []


def test_the_help_says_that_an_error_is_searched_in_the_same_case(dibs: Run) -> None:
    for verb in ("list", "redrive", "discard"):
        assert "in the same case." in " ".join(dibs("dlq", verb, "--help").stdout.split())


def test_a_limit_says_that_there_is_more(dibs: Run, broker: Broker) -> None:
    ids = die(broker, *messages(3))
    shown = dibs("dlq", "list", "--limit", "2")
    assert len(shown.stdout.splitlines()) == 4
    assert "... and more: the newest 2 are shown" in shown.stdout
    data = json.loads(dibs("dlq", "list", "--limit", "2", "--json").stdout)
    assert data["more"] is True
    assert len(data["dead_letters"]) == 2
    assert json.loads(dibs("dlq", "list", "--limit", "3", "--json").stdout)["more"] is False
    assert len(set(ids)) == 3


def test_show_tells_all_and_steers_no_terminal(dibs: Run, broker: Broker) -> None:
    (id,) = die(broker, message(task="resize", args=b'{"path":"a.jpg"}', headers={"a": "b"}))
    shown = dibs("dlq", "show", id)
    assert shown.returncode == 0
    for text in (id, 'arguments   {"path":"a.jpg"}', "max_attempts", "header      a: b"):
        assert text in shown.stdout
    assert "traceback\n  Traceback:\n    \\x1b[31mhost" in shown.stdout
    assert "\x1b" not in shown.stdout
    data = json.loads(dibs("dlq", "show", id, "--json").stdout)
    assert data["id"] == id
    assert data["arguments"] == {"path": "a.jpg"}
    assert data["error"]["message"] == ERROR.message
    assert "claim 1     nothing, " in shown.stdout
    assert "UTC: TimeoutError: no answer from \\x1b[31mhost\n" in shown.stdout
    assert [one["error"]["type"] for one in data["attempts"]] == ["TimeoutError"]


def test_redrive_sends_back_what_the_filters_let_through(dibs: Run, broker: Broker) -> None:
    die(broker, message(task="crop"))
    (id,) = die(broker, message(task="resize"))
    shown = dibs("dlq", "redrive", "--task", "resize", "--yes")
    assert shown.returncode == 0, shown.stderr
    assert "1 dead letter in " in shown.stdout
    assert "  1  resize  max_attempts" in shown.stdout
    assert shown.stdout.endswith("1 dead letter redriven\n")
    (lease,) = claim_all(broker)
    assert str(UUID(bytes=lease.message.id)) == id
    assert (lease.fence, lease.failures) == (2, 0)


def test_a_redriven_job_is_run(dibs: Run, folder: Path) -> None:
    """From the worker that gave it up to the one that does it, with the code mended between."""
    dibs("enqueue", "shop:app", "doomed")
    assert dibs("worker", "shop:app", "--drain").returncode == 0
    assert dibs("dlq", "redrive", "shop:app", "--all", "--yes").returncode == 0
    shop = folder / "shop.py"
    shop.write_text(shop.read_text().replace('raise KeyError("gone")', "pass"))
    assert dibs("worker", "shop:app", "--drain").returncode == 0
    queues = json.loads(dibs("queues", "--json").stdout)["queues"]
    (doomed,) = (queue for queue in queues if queue["name"] == "doomed")
    assert (doomed["ready"], doomed["dead"]) == (0, 0)


def test_a_redrive_goes_on_where_one_is_refused(dibs: Run, broker: Broker) -> None:
    keyed, free = die(broker, message(unique_key="only"), message())
    (live,) = publish(broker, message(unique_key="only"))
    holder = str(UUID(bytes=live.id))
    shown = dibs("dlq", "redrive", "--all", "--yes")
    assert shown.returncode == 1
    assert f"{keyed} was not redriven: the live job {holder} has its unique key" in shown.stderr
    assert shown.stdout.endswith("1 dead letter redriven\n")
    assert listed(dibs) == [keyed]
    told = json.loads(dibs("dlq", "redrive", "--all", "--yes", "--json").stdout)
    assert told["refused"] == [{"id": keyed, "holder": holder}]
    assert told["redriven"] == 0
    assert free not in listed(dibs)


def test_an_id_that_is_no_dead_letter_is_named_and_the_others_are_moved(
    dibs: Run, broker: Broker
) -> None:
    (id,) = die(broker, message())
    (live,) = publish(broker, message("another"))
    unknown = [str(UUID(bytes=one)) for one in (live.id, new_id())]
    shown = dibs("dlq", "discard", *unknown, id, "--yes")
    assert shown.returncode == 1
    for one in unknown:
        assert f"{one} was not discarded: it is no dead letter" in shown.stderr
    assert shown.stdout.endswith("1 dead letter discarded\n")
    assert listed(dibs) == []
    assert len(claim_all(broker, "another")) == 1


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_a_dry_run_moves_nothing(dibs: Run, broker: Broker, verb: str) -> None:
    ids = die(broker, *messages(2))
    shown = dibs("dlq", verb, "--all", "--dry-run")
    assert shown.returncode == 0
    assert "2 dead letters in " in shown.stdout
    assert "this was a dry run" in shown.stdout
    told = json.loads(dibs("dlq", verb, "--all", "--dry-run", "--json").stdout)
    assert (told["matched"], told["dry_run"]) == (2, True)
    assert sorted(listed(dibs)) == sorted(ids)


@pytest.mark.parametrize("verb", ["redrive", "discard"])
@pytest.mark.parametrize(
    "arguments", [[], ["shop:app"], ["--limit", "1"], ["--error", ""]], ids=" ".join
)
def test_all_are_meant_only_where_it_is_said(
    dibs: Run, broker: Broker, verb: str, arguments: list[str]
) -> None:
    """A list of ids that came out empty, as that of `$(cat ids)`, is no word for all of them."""
    ids = die(broker, *messages(2))
    shown = dibs("dlq", verb, *arguments, "--yes")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "which dead letters? Name ids or filters, or say `--all`" in shown.stderr
    assert sorted(listed(dibs)) == sorted(ids)
    assert dibs("dlq", verb, *arguments, "--all", "--yes").returncode == 0
    assert len(listed(dibs)) == ("--limit" in arguments)


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_what_a_limit_leaves_is_said_before_the_others_are_moved(
    dibs: Run, broker: Broker, verb: str
) -> None:
    die(broker, *messages(4))
    asked = dibs("dlq", verb, "--all", "--limit", "3")
    assert asked.returncode == 2, "there is nobody to ask"
    assert asked.stdout.endswith("\n... and more: the first 3 are meant; see --limit\n")
    told = json.loads(dibs("dlq", verb, "--all", "--limit", "3", "--yes", "--json").stdout)
    assert (told["matched"], told["more"]) == (3, True)
    assert "and more" not in dibs("dlq", verb, "--all", "--limit", "1", "--dry-run").stdout
    told = json.loads(dibs("dlq", verb, "--all", "--limit", "1", "--yes", "--json").stdout)
    assert (told["matched"], told["more"]) == (1, False)


@pytest.mark.parametrize("less", ["ids", "filters"])
def test_all_and_less_than_all_contradict_each_other(dibs: Run, broker: Broker, less: str) -> None:
    ids = die(broker, *messages(2))
    said = ids[:1] if less == "ids" else ["--task", "resize"]
    shown = dibs("dlq", "discard", *said, "--all", "--yes")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert f"`--all` means every dead letter, not those of the {less}" in shown.stderr
    assert sorted(listed(dibs)) == sorted(ids)


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_without_a_terminal_and_without_yes_nothing_is_moved(
    dibs: Run, broker: Broker, verb: str
) -> None:
    ids = die(broker, message())
    shown = dibs("dlq", verb, "--all")
    assert shown.returncode == 2
    assert "There is no terminal to ask at: say --yes. Nothing was changed" in shown.stderr
    assert listed(dibs) == ids


@pytest.mark.parametrize(("line", "left"), [("y", 0), ("n", 1), ("", 1)])
def test_at_a_terminal_it_asks(
    dibs: Run, broker: Broker, answer: Run, line: str, left: int
) -> None:
    die(broker, message())
    asked = answer(line, "dlq", "discard", "--all", "--json")
    assert asked.returncode == left, asked.stderr
    assert "1 dead letter in " in asked.stderr
    assert "Remove 1 dead letter for good? [y/N]" in asked.stderr
    assert ("nothing was changed" in asked.stderr) is (left == 1)
    assert len(listed(dibs)) == left
    if not left:
        assert json.loads(asked.stdout)["discarded"] == 1


@pytest.mark.parametrize("arguments", [["list"], ["redrive", "--all"], ["discard", "--all"]])
def test_nothing_found_is_said_and_is_no_mistake(
    dibs: Run, broker: Broker, arguments: list[str]
) -> None:
    broker.declare(["photos"])
    plain = dibs("dlq", *arguments)
    assert (plain.returncode, plain.stdout.startswith("no dead letters in /")) == (0, True)
    filtered = dibs("dlq", arguments[0], "--task", "resize")
    assert filtered.stdout.endswith("are like that\n")
    assert dibs("dlq", *arguments, "--json").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list", "--queue", "photo"], "there is no queue 'photo'; did you mean `photos`?"),
        (["redrive", "--older", "2"], "--older '2' is not an age: write 90s, 15m, 2h"),
        (["discard", "--newer", "soon", "--yes"], "--newer 'soon' is not an age"),
        (["list", "--arg", "width"], "is not of the form name=value"),
        (["discard", "--arg", "o.id=1", "--yes"], "--arg o.id: the name of an argument has no dot"),
        (["list", "--arg", "a=1", "--arg", "a=2"], "--arg a is given twice"),
        (["list", "--limit", "0"], "Invalid value for '--limit'"),
        (["list", "shop"], "'shop' is neither a job's id nor an app, as in `photos:app`"),
        (["list", "one", "two"], "'one' is neither a job's id nor an app"),
        (["show", "0190-x"], "'0190-x' is neither a job's id nor an app"),
        (["show"], "Missing argument '[APP] ID'"),
        (["show", "shop:app"], "name one dead letter by its id"),
        (["show", str(UUID(int=1))], f"there is no dead letter {UUID(int=1)}"),
        (["list", "nope:app"], "there is no module 'nope' here"),
        (["list", "--url", "sqlite:///no.db"], "there is no queue file"),
        (["redirve"], "there is no command `redirve`; did you mean `redrive`?"),
    ],
)
def test_a_mistake_is_one_clear_line(
    dibs: Run, broker: Broker, arguments: list[str], text: str
) -> None:
    ids = die(broker, message())
    shown = dibs("dlq", *arguments)
    assert shown.returncode == 2
    assert text in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not shown.stdout
    assert listed(dibs) == ids


@pytest.mark.parametrize("url", [(), ("--url", "sqlite:///dibs.db")], ids=["unnamed", "url"])
@pytest.mark.parametrize(
    "command",
    [
        *(["dlq", "list"], ["dlq", "show"], ["dlq", "redrive", "--yes"], ["dlq", "discard", "-y"]),
        *(["jobs", "list"], ["jobs", "show"], ["queues", "list"], ["queues", "purge", "photos"]),
        ["doctor"],
    ],
    ids=" ".join,
)
def test_a_word_that_is_neither_an_id_nor_an_app_is_refused(
    dibs: Run, broker: Broker, command: list[str], url: tuple[str, ...]
) -> None:
    """As an id that was cut short: without it, all dead letters would be meant."""
    ids = die(broker, message())
    shown = dibs(*command, "01a226fe", *url)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "'01a226fe' is neither a job's id nor an app, as in `photos:app`" in shown.stderr
    assert listed(dibs) == ids


@pytest.mark.parametrize(
    "command", [["dlq", "discard", "-y"], ["queues"], ["doctor"], ["migrate"]], ids=" ".join
)
def test_an_app_that_is_not_there_is_refused_beside_a_url_too(
    dibs: Run, broker: Broker, command: list[str]
) -> None:
    ids = die(broker, message())
    shown = dibs(*command, "nope:app", "--url", "sqlite:///dibs.db")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "there is no module 'nope' here" in shown.stderr
    assert listed(dibs) == ids


def test_a_live_job_is_no_dead_letter_to_show(dibs: Run, broker: Broker) -> None:
    (live,) = publish(broker, message())
    shown = dibs("dlq", "show", str(UUID(bytes=live.id)))
    assert shown.returncode == 2
    assert "is ready, not dead: see `dibs jobs show`" in shown.stderr


def test_ten_thousand_dead_letters_stay_quick_and_bounded(
    dibs: Run, broker: Broker, folder: Path, environment: dict[str, str]
) -> None:
    """Each carries 10 kB, and a command holds a page of them; each ends within its time limit."""
    count, payload = 10_000, b'{"data":"' + b"x" * 10_000 + b'"}'
    for _ in range(count // 1_000):
        publish(broker, *messages(1_000, args=payload))
        gone = DeadLetter("max_attempts", ERROR)
        broker.settle([Settlement(lease, gone) for lease in claim_all(broker)])
    assert len(listed(dibs)) == 100
    assert listed(dibs, "--arg", "data=y") == []
    measured = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-m", "dibs", "dlq", "redrive", "--all", "--yes", "--json"]
    shown = subprocess.run(
        [sys.executable, "-c", measured, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    told, most_kb = map(json.loads, shown.stdout.splitlines())
    assert told["redriven"] == count
    assert most_kb < 80_000, "it read 100 MB"
