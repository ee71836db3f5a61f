"""What is shown of a job is all of it, and steers no terminal."""

import base64
import json
from typing import Any

import pytest
from msgspec.structs import replace

from dibs.cli.views import as_data, as_json, page, when, why
from dibs.message import Error, JobView
from dibs.states import State
from dibs.testing.making import message

NASTY = "\x1b[31m\r\n\x07\u202e\u2066\x9b\ud800"
STEERING = set("\x1b\r\x07\u202e\u2066\x9b\ud800")
NOW_MS = 1_800_000_000_000
READY = JobView(message(), State.READY, 0, 0, 0, 0, NOW_MS - 60_000)
DEAD = JobView(
    message(task=NASTY, unique_key=NASTY, headers={NASTY: NASTY}, args=NASTY[:-1].encode()),
    State.DEAD, 3, 2, 1, 0, NOW_MS, None, NASTY, Error(NASTY, NASTY, f"Traceback:\n  {NASTY}"),
)  # fmt: skip


def test_nothing_of_a_page_steers_the_terminal() -> None:
    shown = page(DEAD, NOW_MS)
    assert not STEERING & set(shown)
    assert shown.encode()


def test_nothing_of_a_row_steers_the_terminal() -> None:
    assert not (STEERING | {"\n"}) & set(why(DEAD))


def test_nothing_of_json_steers_the_terminal_or_is_lost() -> None:
    shown = as_json(as_data(DEAD))
    assert shown.isascii()
    assert shown.isprintable()
    assert json.loads(shown)["error"]["message"] == NASTY


def test_a_page_tells_all() -> None:
    letter = replace(
        DEAD,
        message=message(
            task="resize", args=b'{"path":"a.jpg"}', headers={"a": "b"}, unique_key="k"
        ),
        reason="max_attempts",
        error=Error("ValueError", "no photo", "Traceback:\n  File photos.py"),
    )
    shown = page(letter, NOW_MS + 120_000)
    for text in (
        "task        resize", 'arguments   {"path":"a.jpg"}', "unique key  k", "header      a: b",
        "reason      max_attempts", "error       ValueError: no photo", "failures    2 of 5",
        "crashes     1 of 3", "lost        0 of 10", "claims      3",
        "state       dead, 2 min ago (2027-01-15 08:00:00 UTC)", "  Traceback:\n    File photos.py",
    ):  # fmt: skip
        assert text in shown


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (READY, "60 s ago"),
        (replace(READY, since_ms=NOW_MS + 5), "0 s ago"),
        (
            replace(READY, state=State.SCHEDULED, since_ms=None, until_ms=NOW_MS + 90),
            "due in 0.09 s",
        ),
        (
            replace(READY, state=State.IN_FLIGHT, since_ms=None, until_ms=NOW_MS),
            "lease ends in 0 s",
        ),
    ],
)
def test_when_is_told_of_each_state(view: JobView, text: str) -> None:
    assert when(view, NOW_MS) == text


@pytest.mark.parametrize(
    ("args", "arguments"),
    [(b'{"a":[1,{"b":null}]}', {"a": [1, {"b": None}]}), (b"[]", []), (b"3.5", 3.5)],
)
def test_arguments_are_json_where_they_read_as_json(args: bytes, arguments: Any) -> None:
    data = as_data(replace(READY, message=message(args=args)))
    assert data["arguments"] == arguments
    assert data["payload"] is None


@pytest.mark.parametrize(
    "args",
    [b"", b"\xff\x00", b"{", b"NaN", b"[" * 100_000 + b"]" * 100_000, b"1" * 10_000],
    ids=len,
)
def test_bytes_that_are_no_json_are_shown_in_base64(args: bytes) -> None:
    data = as_data(replace(READY, message=message(args=args)))
    assert data["arguments"] is None
    assert base64.b64decode(data["payload"]) == args
    as_json({"jobs": [data]})


@pytest.mark.parametrize("depth", range(900, 1_000, 3))
def test_what_is_read_can_be_written_however_deep(depth: int) -> None:
    args = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    as_json({"jobs": [as_data(replace(READY, message=message(args=args)))]})
