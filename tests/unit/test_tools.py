"""Each rule of tools/ catches what it is there for, and lets the lawful twin pass."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import Problem, check_budgets, check_seams, check_words, report

Check = Callable[[Path], Iterator[Problem]]


def advice(check: Check, root: Path, name: str, text: str) -> list[str]:
    """What a check says of a project that has just this file."""
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return [problem.advice for problem in check(root)]


def function_of(lines: int, docstring: str = "") -> str:
    return "\n".join(["def long():", *docstring.splitlines(), *["    call()"] * (lines - 1)])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("src/dibs/app.py", "\n" * 401, "the file has 401 lines"),
        ("src/dibs/app.py", function_of(41), "long has 41 lines"),
        ("tools/check.py", "class A:\n    async def b(self):\n" + "\n        c()" * 40, "b has 42"),
        ("src/dibs/brokers/redis/inspector.py", "\n" * 201, "the inspector has 201 lines"),
    ],
)
def test_a_budget_overrun_is_caught(tmp_path: Path, name: str, text: str, says: str) -> None:
    (found,) = advice(check_budgets.problems, tmp_path, name, text)
    assert says in found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/dibs/app.py", "\n" * 400),
        ("src/dibs/app.py", function_of(40, docstring='    """Says much.\n\n    On 3 lines."""')),
        ("src/dibs/brokers/redis/inspector.py", "\n" * 200),
        ("tests/unit/test_app.py", "\n" * 401),
    ],
)
def test_what_is_within_its_budget_passes(tmp_path: Path, name: str, text: str) -> None:
    assert not advice(check_budgets.problems, tmp_path, name, text)


def test_an_adapter_is_counted_over_its_files_but_without_its_inspector(tmp_path: Path) -> None:
    adapter = tmp_path / "src/dibs/brokers/redis"
    adapter.mkdir(parents=True)
    for name, lines in (("__init__.py", 200), ("broker.py", 200), ("inspector.py", 200)):
        (adapter / name).write_text("\n" * lines)
    assert not list(check_budgets.problems(tmp_path))
    (adapter / "broker.py").write_text("\n" * 201)
    (found,) = check_budgets.problems(tmp_path)
    assert "401 lines of Python" in found.advice


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import time\ntime.sleep(1)", "time.sleep"),
        ("import time as t\nt.monotonic()", "time.monotonic"),
        ("from time import time as now\nnow()", "time.time"),
        ("import time\ndef wait(clock=time.monotonic): ...", "time.monotonic"),
        ("import random\nrandom.uniform(0, 1)", "random.uniform"),
        ("import secrets\nsecrets.token_bytes(8)", "secrets.token_bytes"),
        ("import os.path\nos.urandom(8)", "os.urandom"),
        ("from datetime import datetime, UTC\ndatetime.now(UTC)", "datetime.datetime.now"),
        ("import datetime\ndatetime.date.today()", "datetime.date.today"),
        ("import asyncio\nasync def f(): await asyncio.sleep(1)", "asyncio.sleep"),
        ("def f():\n    from uuid import uuid4\n    return uuid4()", "uuid.uuid4"),
    ],
)
def test_a_reach_past_the_seams_is_caught(tmp_path: Path, text: str, name: str) -> None:
    (found,) = advice(check_seams.problems, tmp_path, "src/dibs/worker/pump.py", text)
    assert found.startswith(f"{name} is the real one: take the clock")


@pytest.mark.parametrize("name", ["policy.py", "brokers/memory/store.py", "brokers/contract.py"])
def test_what_is_simulated_has_no_clock_of_its_own(tmp_path: Path, name: str) -> None:
    assert advice(check_seams.problems, tmp_path, f"src/dibs/{name}", "import time\ntime.time()")


@pytest.mark.parametrize(
    "name", ["clock.py", "brokers/sqlite/broker.py", "runners/loop.py", "cli/demo.py"]
)
def test_what_stands_outside_of_the_simulation_may_ask(tmp_path: Path, name: str) -> None:
    text = "import time\ntime.time()"
    assert not advice(check_seams.problems, tmp_path, f"src/dibs/{name}", text)


def test_values_annotations_and_namesakes_are_free(tmp_path: Path) -> None:
    text = """
import random
from datetime import UTC, datetime

def due(chance: random.Random, clock: object) -> datetime:
    chance.random(), clock.time()
    return datetime.fromtimestamp(0, UTC)
"""
    assert not advice(check_seams.problems, tmp_path, "src/dibs/policy.py", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docs/contract.md", "we promise " + "exactly-once" + "\ndelivery"),
        ("docs/contract.md", "Exactly once " + "delivery"),
        ("docs/start.md", "cd /" + "home/ann/dibs"),
        ("docs/start.md", "open file:///" + "root/x"),
        ("docs/start.md", "pip install --extra-index" + "-url x"),
        ("docs/start.md", "see pypi" + ".org"),
        ("requirements/dev.txt", "apsw @ https" + "://example.com/apsw.whl"),
        ("src/dibs/codec.py", "import pick" + "le"),
        ("src/dibs/codec.py", "from marsh" + "al import loads"),
        ("src/dibs/codec.py", "import yaml\nyaml.load('')"),
    ],
)
def test_a_forbidden_word_is_caught(tmp_path: Path, name: str, text: str) -> None:
    assert len(advice(check_words.problems, tmp_path, name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docs/contract.md", "delivery is at-least-once; exactly-once is said of effects"),
        ("docs/start.md", "https://example.com/home/ and ~/work/photos"),
        ("src/dibs/codec.py", "import json, yaml\nyaml.safe_load('')"),
        ("tests/unit/test_codec.py", "import pickle"),
    ],
)
def test_words_near_a_forbidden_one_pass(tmp_path: Path, name: str, text: str) -> None:
    assert not advice(check_words.problems, tmp_path, name, text)


def test_a_problem_is_told_with_its_place_and_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([]) == 0
    assert report([Problem(tmp_path / "a.py", 7, "mend it")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/a.py:7: mend it\n"
