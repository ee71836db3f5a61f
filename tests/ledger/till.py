"""Tasks that charge cards; runners in the tests import this file.

Each charge is written twice: naively, in a transaction of its own, and through `once`. The first
shows that the fault is a real one: where it is charged once only, the test proves nothing.
"""

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from dibs import App, context, once
from dibs.errors import LeaseLost

app = App("sqlite:///zoo.db")
SHOP = Path("shop.txt").read_text()
"""Where the effects are: a file, or a PostgreSQL address."""


@contextmanager
def shop() -> Iterator[Any]:
    """A connection to the database of the effects."""
    connect = psycopg.connect if "://" in SHOP else sqlite3.connect
    connection: Any = connect(SHOP)
    try:
        yield connection
    finally:
        connection.close()


def note(what: str, n: int) -> None:
    """Append a line, in one write, for the test."""
    run = f"fence={context().fence} attempt={context().attempt}"
    line = f"what={what} n={n} {run} pid={os.getpid()} pump={os.getppid()} slots=0"
    with Path("notes.txt").open("a") as file:
        file.write(f"{line} at={time.monotonic()}\n")


def wait_for(name: str) -> None:
    """Wait for a file of the test's."""
    while not Path(name).exists():
        time.sleep(0.01)


def naively(n: int) -> None:
    """Charge as if every job ran once."""
    with shop() as connection:
        connection.execute(f"INSERT INTO naive VALUES ({n})")
        connection.commit()


def through_once(n: int, inside: str | None = None) -> None:
    """Charge once, held up in the middle of it if the test says so."""
    with shop() as connection, once(connection) as first:
        if first:
            connection.execute(f"INSERT INTO charges VALUES ({n})")
            if inside:
                note("inside", n)
                wait_for(inside)
            first.record({"charged": n})
        else:
            assert first.result == {"charged": n}
            note("done", n)


@app.task
def charges(n: int) -> None:
    naively(n)
    through_once(n)
    time.sleep(0.02)  # the window between effect and acknowledgement, for kills to hit


@app.task
def charges_after(n: int, file: str) -> None:
    naively(n)
    note("start", n)
    wait_for(file)
    try:
        through_once(n)
    except LeaseLost:
        note("refused", n)
        raise


@app.task
def charges_around(n: int, file: str) -> None:
    note("start", n)  # SQLite has one writer: what is naive would wait for the stopped one
    through_once(n, inside=file)


@app.task
def charges_and_dies(n: int) -> None:
    naively(n)
    through_once(n)
    if context().fence == 1:
        os.kill(os.getppid(), signal.SIGKILL)  # the pump first, which would see the other's death
        os.kill(os.getpid(), signal.SIGKILL)
