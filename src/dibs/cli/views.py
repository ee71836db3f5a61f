"""A job as `dibs jobs` and `dibs dlq` show it: a row, a page, or JSON.

Owns: that nothing of a job, whoever enqueued it, steers the terminal.
Must never: print, or leave out of a page or of JSON what is known of a job.
Called by: `jobs.py`, `dlq.py`, `ledger.py`.
"""

import base64
import json
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec import structs

from dibs.message import Attempt, JobView
from dibs.states import State
from dibs.text import duration, one_line, printable

SHOWN_OF_ERROR = 80


def shown_id(id: bytes) -> str:
    """Return an id as `Job.id` has it."""
    return str(UUID(bytes=id))


def when(view: JobView, now_ms: int) -> str:
    """Return since when, or until when, a job is where it is, seen at `now_ms`."""
    if view.since_ms is not None:
        return f"{duration(max(0, now_ms - view.since_ms) / 1000)} ago"
    left = duration(max(0, (view.until_ms or 0) - now_ms) / 1000)
    return f"due in {left}" if view.state is State.SCHEDULED else f"lease ends in {left}"


def why(view: JobView) -> str:
    """Return the reason and the error of a dead letter, on one line."""
    if view.error is None:
        return view.reason or ""
    text = f"{view.reason}: {view.error.type}: {view.error.message}"
    return one_line(text, SHOWN_OF_ERROR)


def page(view: JobView, now_ms: int) -> str:
    """Return all that is known of a job, for people."""
    lines = [f"{name:12}{one_line(text, sys.maxsize)}\n" for name, text in _facts(view, now_ms)]
    if view.error is not None and view.error.traceback:
        lines += ["traceback\n", textwrap.indent(printable(view.error.traceback).rstrip(), "  ")]
        lines.append("\n")
    return "".join(lines)


def done_page(id: bytes, result: bytes) -> str:
    """Return what is left of a job that is done, and whose result is kept, for people."""
    facts = ("id", shown_id(id)), ("state", "done"), ("result", _shown(result))
    return "".join(f"{name:12}{one_line(text, sys.maxsize)}\n" for name, text in facts)


def done_data(id: bytes, result: bytes) -> dict[str, Any]:
    """Return what is left of a job that is done, and whose result is kept, as plain data.

    `result` is None where it is not JSON. `payload` then has its bytes, in base64.
    """
    readable, found = _read(result)
    payload = None if readable else base64.b64encode(result).decode()
    return {"id": shown_id(id), "state": "done", "result": found, "payload": payload}


def _facts(view: JobView, now_ms: int) -> Iterator[tuple[str, str]]:
    message = view.message
    moment = view.since_ms if view.since_ms is not None else view.until_ms
    yield "id", shown_id(message.id)
    yield "task", message.task
    yield "queue", message.queue
    yield "state", f"{view.state.value}, {when(view, now_ms)} ({_moment(moment or 0)})"
    if view.reason is not None:
        yield "reason", view.reason
    if view.error is not None:
        yield "error", f"{view.error.type}: {view.error.message}"
    yield "failures", f"{view.failures} of {message.max_attempts}"
    yield "crashes", f"{view.crashes} of {message.max_crashes}"
    yield "lost", f"{view.lost} of {message.max_lost}"
    yield "claims", str(view.fence)
    for attempt in view.attempts:
        error = f"{attempt.error.type}: {attempt.error.message}"
        yield f"claim {attempt.fence}", f"{attempt.charge}, {_moment(attempt.at_ms)}: {error}"
    yield "arguments", _shown(message.args)
    if message.unique_key is not None:
        yield "unique key", message.unique_key
    for name, value in message.headers.items():
        yield "header", f"{name}: {value}"
    yield "priority", str(message.priority)
    yield (
        "limits",
        (
            f"timeout {duration(message.timeout_ms / 1000)},"
            f" visibility timeout {duration(message.visibility_timeout_ms / 1000)}"
        ),
    )


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def as_data(view: JobView) -> dict[str, Any]:
    """Return all that is known of a job as plain data, its message's fields among the others.

    `arguments` is None where they are not JSON. `payload` then has their bytes, in base64.
    """
    data = structs.asdict(view)
    message = structs.asdict(data.pop("message"))
    args = message.pop("args")
    readable, arguments = _read(args)
    error = None if view.error is None else structs.asdict(view.error)
    return {
        "id": shown_id(message.pop("id")),
        **message,
        "arguments": arguments,
        "payload": None if readable else base64.b64encode(args).decode(),
        **data,
        "state": view.state.value,
        "error": error,
        "attempts": [_attempt(attempt) for attempt in view.attempts],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {**structs.asdict(attempt), "error": structs.asdict(attempt.error)}


def as_json(data: object) -> str:
    """Return JSON in ASCII, which steers no terminal and carries any text."""
    return json.dumps(data)


def _shown(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _read(data: bytes) -> tuple[bool, Any]:
    try:
        found = json.loads(data)
        # Deeper than it will lie in what is printed: that may be too deep where it alone is not.
        json.dumps([[[[found]]]], allow_nan=False)
    except (ValueError, RecursionError):
        return False, None
    return True, found
