"""The demo's shop: a database of its own, in which cards are charged, as a user would have one.

Owns: its tables, and how often each card was charged.
Must never: be the queue file: the effects of jobs are kept apart from the jobs.
Called by: `tasks.py`, which charges; `story.py`, which makes it; `audit.py`, which counts.
"""

import sqlite3
from collections import Counter
from contextlib import closing
from typing import Literal

from dibs.ledger import CREATE_TABLE

NAME = "shop.db"

Charges = Literal["naive_charges", "charges"]
"""The tables: what is charged as if every job ran once, and what is charged through `once`."""

_TABLES = (
    "CREATE TABLE naive_charges (card INTEGER NOT NULL)",
    "CREATE TABLE charges (card INTEGER NOT NULL)",
    CREATE_TABLE,
)
_BUSY_SECONDS = 60.0
"""SQLite has one writer: fifty jobs that charge at a time stand in line."""


def make(path: str) -> None:
    """Make the shop."""
    with closing(opened(path)) as shop:
        for statement in _TABLES:
            shop.execute(statement)


def opened(path: str) -> sqlite3.Connection:
    """Return a connection on which each statement is a transaction, unless one is begun."""
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)


def charge(shop: sqlite3.Connection, table: Charges, card: int) -> None:
    """Charge a card."""
    shop.execute(f"INSERT INTO {table} VALUES (?)", (card,))


def charged(path: str, table: Charges) -> Counter[int]:
    """Return how often each card was charged."""
    with closing(opened(path)) as shop:
        return Counter(card for (card,) in shop.execute(f"SELECT card FROM {table}"))


def kept(path: str) -> int:
    """Return how many effects the ledger says are done."""
    with closing(opened(path)) as shop:
        (count,) = shop.execute("SELECT count(*) FROM dibs_ledger").fetchone()
    return int(count)
