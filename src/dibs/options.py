"""Delivery options: what can be chosen, and within which limits.

Owns: the units that users write (seconds, `timedelta`, aware `datetime`) and their conversion to
the broker's (whole milliseconds), and the text for a value that is out of range.
Must never: know a broker; whether it can keep an option is its own answer when a job is enqueued.
Called by: tasks at their definition, `Task.options`.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from dibs.brokers.capabilities import MAX_DURATION_MS
from dibs.brokers.contract import (
    LATEST_DUE_MS,
    MAX_BUDGET,
    MAX_NAME_BYTES,
    MIN_VISIBILITY_TIMEOUT_MS,
    QUEUE_NAME,
)
from dibs.errors import OptionError

Seconds = float | timedelta


class Options(Struct, frozen=True):
    """How a job is delivered. `delay_ms` counts from the enqueueing, `due_ms` is since 1970."""

    queue: str = "default"
    priority: int = 0
    delay_ms: int = 0
    due_ms: int = 0
    visibility_timeout_ms: int = 30_000
    timeout_ms: int = 900_000
    max_attempts: int = 5
    max_crashes: int = 3
    max_lost: int = 10
    unique_key: str | None = None


def revised(options: Options, given: Mapping[str, object]) -> Options:
    """Return `options` with those of `given`, by their public names.

    Raises:
        OptionError: one is out of its range, or `delay` and `run_at` are both given.
    """
    changes: dict[str, Any] = {}
    for name, value in given.items():
        field, check = _CHECKS[name]
        changes[field] = check(name, value)
    if "delay_ms" in changes and "due_ms" in changes:
        raise OptionError("`delay` and `run_at` both say when to run: give one of them")
    # The later word on when to run replaces the earlier.
    if "delay_ms" in changes:
        changes["due_ms"] = 0
    elif "due_ms" in changes:
        changes["delay_ms"] = 0
    return msgspec.structs.replace(options, **changes) if changes else options


def milliseconds(name: str, value: object, shortest_ms: int = 0) -> int:
    """Convert a duration in seconds, or a `timedelta`.

    Raises:
        OptionError: it is neither, or not within `shortest_ms` and ten years.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise OptionError(f"`{name}` is {_shown(value)}: give seconds, or a `timedelta`")
    # Asked in this way round, NaN is out of range too.
    if not shortest_ms <= seconds * 1_000 <= MAX_DURATION_MS:
        raise OptionError(
            f"`{name}` is {_shown(value)}: it is at least {shortest_ms / 1_000:g} seconds and at"
            f" most {MAX_DURATION_MS // 1_000:,}, which is ten years"
        )
    return round(seconds * 1_000)


def _lease(name: str, value: object) -> int:
    return milliseconds(name, value, MIN_VISIBILITY_TIMEOUT_MS)


def _run_time(name: str, value: object) -> int:
    if value is None:
        raise OptionError(f"`{name}` is None: every run has a limit; give seconds")
    return milliseconds(name, value, 1)


def _moment(name: str, value: object) -> int:
    if not isinstance(value, datetime):
        raise OptionError(f"`{name}` is {_shown(value)}: give a `datetime` with a time zone")
    if value.utcoffset() is None:
        raise OptionError(
            f"`{name}` is {value.isoformat()} without a time zone: add one, as in"
            " `datetime.now(UTC) + timedelta(hours=1)`, or `.astimezone()` for this machine's"
        )
    ms = round(value.timestamp() * 1_000)
    if not 0 <= ms <= LATEST_DUE_MS:
        raise OptionError(f"`{name}` is {value.isoformat()}: it is between the years 1970 and 9999")
    return ms


def _number(low: int, high: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise OptionError(
                f"`{name}` is {_shown(value)}: it is a whole number from {low} to {high:,}"
            )
        return value

    return check


def _queue(name: str, value: object) -> str:
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise OptionError(f"`{name}` is {_shown(value)}: it has 1 to 60 of A-Z a-z 0-9 _ -")
    return value


def _key(name: str, value: object) -> str:
    try:
        if isinstance(value, str) and 0 < len(value.encode()) <= MAX_NAME_BYTES:
            return value
    except UnicodeEncodeError:
        pass  # a lone surrogate: refused as what is not text
    raise OptionError(f"`{name}` is {_shown(value)}: it is text of 1 to {MAX_NAME_BYTES} bytes")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_CHECKS: dict[str, tuple[str, Callable[[str, object], int | str]]] = {
    "queue": ("queue", _queue),
    "priority": ("priority", _number(0, 9)),
    "delay": ("delay_ms", milliseconds),
    "run_at": ("due_ms", _moment),
    "visibility_timeout": ("visibility_timeout_ms", _lease),
    "timeout": ("timeout_ms", _run_time),
    "max_attempts": ("max_attempts", _number(1, MAX_BUDGET)),
    "max_crashes": ("max_crashes", _number(1, MAX_BUDGET)),
    "max_lost": ("max_lost", _number(1, MAX_BUDGET)),
    "unique_key": ("unique_key", _key),
}
