"""Rows of effects that were done long ago are deleted, by a function and by a command."""

import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess
from typing import Any

import pytest

from dibs import once
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import SystemClock
from dibs.errors import OptionError
from dibs.ledger import prune
from tests.ledger.shops import KINDS, Shop

DAY_MS = 86_400_000
ON_EACH = [kind for kind in KINDS if kind.name in ("sqlite3", "psycopg")]
each_database = pytest.mark.parametrize("kind", ON_EACH, ids=lambda kind: kind.name)


def done(shop: Shop, **days_ago: int) -> None:
    """Write rows that are so old."""
    with shop.open() as connection:
        for key in days_ago:
            with once(connection, key):
                pass
    with shop.outside() as run:
        for key, days in days_ago.items():
            ago = SystemClock().wall_ms() - days * DAY_MS - 1_000
            run(f"UPDATE dibs_ledger SET done_ms = {ago} WHERE key = '{key}'")


def dibs(folder: Path, *arguments: str, stdin: Any = DEVNULL) -> CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-W", "error", "-m", "dibs", "ledger", *arguments]
    return subprocess.run(
        command, cwd=folder, stdin=stdin, capture_output=True, text=True, timeout=30, check=False
    )


def answered(line: str, folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Run the command at a terminal where a line is typed."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as terminal, os.fdopen(theirs, "rb") as stdin:
        terminal.write(f"{line}\n".encode())
        return dibs(folder, *arguments, stdin=stdin)


def address(shop: Shop) -> str:
    return shop.place.url if shop.kind.dialect == "postgresql" else f"sqlite:///{shop.place.path}"


def test_rows_older_than_30_days_are_deleted(shop: Shop) -> None:
    done(shop, old=30, older=400, young=29)
    with shop.open() as connection:
        assert prune(connection, dry_run=True) == 2
        assert shop.keys() == ["old", "older", "young"]
        assert prune(connection) == 2
        assert shop.keys() == ["young"]
        assert prune(connection, timedelta(days=29)) == 1
        assert shop.keys() == []


def test_where_no_ledger_is_there_is_nothing_to_prune(shop: Shop) -> None:
    with shop.open() as connection:
        assert prune(connection) == 0
    assert shop.keys() == []


@each_database
def test_in_a_transaction_of_the_callers_pruning_is_the_callers_to_commit(shop: Shop) -> None:
    done(shop, old=40)
    with shop.open() as connection, shop.own(connection):
        assert prune(connection) == 1
        assert shop.keys() == ["old"]
    assert shop.keys() == []


@pytest.mark.parametrize("kind", ON_EACH[:1], ids=lambda kind: kind.name)
def test_on_sqlite_nobody_gets_between_looking_and_writing(shop: Shop) -> None:
    done(shop, old=40)
    locked: list[str] = []

    def look_in(statement: str) -> None:
        if statement.startswith("SELECT"):
            with closing(sqlite3.connect(shop.place.path, timeout=0)) as other:
                try:
                    other.execute("INSERT INTO charges VALUES (1)")
                except sqlite3.OperationalError as error:
                    locked.append(str(error))

    with shop.open() as connection:
        connection.set_trace_callback(look_in)
        assert prune(connection) == 1
    assert locked == ["database is locked"]


def test_a_negative_age_is_refused() -> None:
    with pytest.raises(OptionError, match="`older`"):
        prune(None, -1)


@each_database
def test_the_command_counts_asks_and_deletes(shop: Shop, tmp_path: Path) -> None:
    done(shop, old=30, older=400, young=29)
    where = address(shop)
    counted = dibs(tmp_path, "prune", where, "--dry-run")
    assert counted.returncode == 0, counted.stderr
    assert counted.stdout.startswith("2 rows of effects done more than 30.0 d ago in ")

    unasked = dibs(tmp_path, "prune", where)
    assert unasked.returncode == 2
    assert "There is no terminal to ask at: say --yes" in unasked.stderr
    assert shop.keys() == ["old", "older", "young"]

    kept = answered("n", tmp_path, "prune", where)
    assert (kept.returncode, kept.stdout) == (1, "")
    assert "Delete 2 rows of effects done more than 30.0 d ago in " in kept.stderr
    assert shop.keys() == ["old", "older", "young"]

    assert answered("y", tmp_path, "prune", where).stdout == "deleted 2 rows\n"
    assert shop.keys() == ["young"]
    assert dibs(tmp_path, "prune", where, "--older", "12h", "--yes").stdout == "deleted 1 row\n"
    assert shop.keys() == []


@each_database
def test_the_command_tells_a_program_in_json(shop: Shop, tmp_path: Path) -> None:
    done(shop, old=30, older=400, young=29)

    def told(asked: CompletedProcess[str]) -> dict[str, object]:
        assert asked.returncode == 0, asked.stderr
        return json.loads(asked.stdout)

    command = ("prune", address(shop), "--json")
    assert told(dibs(tmp_path, *command, "--dry-run")) == {
        "matched": 2,
        "deleted": 0,
        "dry_run": True,
    }
    assert shop.keys() == ["old", "older", "young"]
    assert told(answered("y", tmp_path, *command)) == {
        "matched": 2,
        "deleted": 2,
        "dry_run": False,
    }
    assert shop.keys() == ["young"]
    assert told(dibs(tmp_path, *command)) == {"matched": 0, "deleted": 0, "dry_run": False}


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    open_sqlite(tmp_path / "dibs.db", clock=SystemClock(), worker_id=b"test").close()
    (tmp_path / "text.txt").write_text("no database, whatever its size\n" * 100)
    for arguments, says in (
        (["dibs.db"], "queue file"),
        (["typo.db"], "there is no database typo.db"),
        (["text.txt"], "file is not a database"),
        (["mysql://shop"], "give a path"),
        (["postgresql://nobody@/none?host=/nowhere"], "/nowhere"),
        (["shop.db", "--older", "soon"], "--older"),
    ):
        shown = dibs(tmp_path, "prune", *arguments)
        assert shown.returncode == 2, shown
        assert says in shown.stderr
        assert "Traceback" not in shown.stderr
    assert not (tmp_path / "typo.db").exists()
