"""A message as the columns of a row, and back.

Owns: how text is stored that PostgreSQL cannot hold as it is: with a zero byte, say. It is escaped
as in JSON, so that ordinary text looks the same in both.
Called by: `broker`, `inspector`.
"""

import json
from typing import Any

from dibs.libpq.arrays import INT2, INT4, INT8, TEXT
from dibs.libpq.session import Row
from dibs.message import Message

COLUMNS = {
    "due_ms": INT8,
    "priority": INT2,
    "visibility_timeout_ms": INT8,
    "timeout_ms": INT8,
    "max_attempts": INT4,
    "max_crashes": INT4,
    "max_lost": INT4,
    "unique_key": TEXT,
    "headers": TEXT,
    "version": INT8,
}
"""The fields of a message that follow its arguments, and what is stored of each."""


def stored_field(name: str, message: Message) -> Any:
    """Return a field of a message as its column has it."""
    value = getattr(message, name)
    if name == "headers":
        return json.dumps(value) if value else None
    return json.dumps(value, ensure_ascii=False)[1:-1] if isinstance(value, str) else value


def message_of(row: Row) -> Message:
    """Return the message of a row that begins with its fields."""
    id, queue, task, args, due, priority, held, run, attempts, crashes, lost, *rest = row[:14]
    key, headers, version = rest
    return Message(
        id, queue, _text(task), args, due, priority, held, run, attempts, crashes, lost,
        None if key is None else _text(key), json.loads(headers) if headers else {}, version,
    )  # fmt: skip


def _text(stored: str) -> str:
    return str(json.loads(f'"{stored}"')) if "\\" in stored else stored
