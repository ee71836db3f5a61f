"""Which jobs a person means: the filters of `dibs dlq` and `dibs jobs`, as pure functions.

Owns: what each filter says of a job, and how ids and ages are written.
Must never: ask a broker, or read a clock.
Called by: `selecting.py`.
"""

import json
import re
from typing import Any
from uuid import UUID

from msgspec import Struct

from dibs.errors import OptionError
from dibs.message import JobView

_AGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|m|h|d|w)")
_UNITS_MS = {
    "s": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}


class Wanted(Struct, frozen=True):
    """What a job must be like; whatever is None or empty is not asked.

    `error` is a part of its reason, or of its error's type or message. The two moments bound since
    when it is there: up to `until_ms`, after `after_ms`. `arguments` are values in `canonical`
    form, by name.
    """

    queue: str | None = None
    task: str | None = None
    error: str | None = None
    until_ms: int | None = None
    after_ms: int | None = None
    arguments: dict[str, str] = {}


def matches(view: JobView, wanted: Wanted) -> bool:
    """Say whether a job is as wanted."""
    message, since_ms = view.message, view.since_ms or 0
    return (
        wanted.queue in (None, message.queue)
        and wanted.task in (None, message.task)
        and (wanted.until_ms is None or since_ms <= wanted.until_ms)
        and (wanted.after_ms is None or since_ms > wanted.after_ms)
        and (wanted.error is None or wanted.error in _why(view))
        and (not wanted.arguments or _has(message.args, wanted.arguments))
    )


def age_ms(option: str, text: str | None) -> int | None:
    """Return an age as people write it, 90s, 15m, 2h, 1.5d or 1w, in milliseconds.

    Raises:
        OptionError: it is not written so; `option` is named.
    """
    if text is None:
        return None
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise OptionError(f"{option} {text!r} is not an age: write 90s, 15m, 2h, 1.5d or 1w")
    return int(float(found[1]) * _UNITS_MS[found[2]])


def job_id(text: str) -> bytes | None:
    """Return a job's id as `dibs` prints it, with or without its dashes; None if it is none."""
    try:
        return UUID(text).bytes
    except ValueError:
        return None


def canonical(data: bytes) -> str:
    """Return a JSON value in the one form that equal values have: 1 is not 1.0, and not true.

    Raises:
        ValueError, RecursionError: it cannot be read.
    """
    return _text(json.loads(data))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _why(view: JobView) -> str:
    error = view.error
    return "\n".join((view.reason or "", error.type, error.message) if error else ())


def _has(args: bytes, wanted: dict[str, str]) -> bool:
    try:
        found = json.loads(args)
        return isinstance(found, dict) and all(
            name in found and _text(found[name]) == value for name, value in wanted.items()
        )
    except (ValueError, RecursionError):
        return False
