"""Each filter of dead letters lets through what it says, and nothing that it cannot read."""

from typing import Any

import pytest
from msgspec.structs import replace

from dibs.cli.filters import Wanted, age_ms, canonical, job_id, matches
from dibs.errors import OptionError
from dibs.message import Error, JobView
from dibs.states import State
from dibs.testing.making import message

DIED_MS = 1_000_000
LETTER = JobView(
    message(
        "photos",
        task="resize",
        args=b'{"path":"a.jpg","width":64,"tags":["x"],"deep":{"b":1,"a":2}}',
    ),
    State.DEAD, 1, 2, 0, 0, DIED_MS, None, "max_attempts", Error("TimeoutError", "no answer: 504"),
)  # fmt: skip


def values(**given: str) -> dict[str, str]:
    return {name: canonical(value.encode()) for name, value in given.items()}


@pytest.mark.parametrize(
    ("wanted", "let_through"),
    [
        (Wanted(), True),
        (Wanted(queue="photos"), True),
        (Wanted(queue="photo"), False),
        (Wanted(task="resize"), True),
        (Wanted(task="resiz"), False),
        (Wanted(error="TimeoutError"), True),
        (Wanted(error="504"), True),
        (Wanted(error="max_attempts"), True),
        (Wanted(error="timeouterror"), False),
        (Wanted(error=""), True),
        (Wanted(until_ms=DIED_MS), True),
        (Wanted(until_ms=DIED_MS - 1), False),
        (Wanted(after_ms=DIED_MS - 1), True),
        (Wanted(after_ms=DIED_MS), False),
        (Wanted(arguments=values(path='"a.jpg"')), True),
        (Wanted(arguments=values(path='"a.jpg"', width="64")), True),
        (Wanted(arguments=values(path='"a.jpg"', width="65")), False),
        (Wanted(arguments=values(width='"64"')), False),
        (Wanted(arguments=values(width="64.0")), False),
        (Wanted(arguments=values(tags='["x"]')), True),
        (Wanted(arguments=values(tags='"x"')), False),
        (Wanted(arguments=values(deep='{"a": 2, "b": 1}')), True),
        (Wanted(arguments=values(colour="null")), False),
        (Wanted(queue="photos", task="resize", error="504", after_ms=0), True),
        (Wanted(queue="photos", task="crop", error="504", after_ms=0), False),
    ],
    ids=repr,
)
def test_a_filter_lets_through_what_it_says(wanted: Wanted, let_through: bool) -> None:
    assert matches(LETTER, wanted) is let_through


@pytest.mark.parametrize(
    "args", [b"", b"\xff", b"[1]", b'"path"', b"null", b"[" * 100_000, b"1" * 10_000], ids=len
)
def test_what_cannot_be_read_has_no_argument(args: bytes) -> None:
    odd = replace(LETTER, message=message(args=args))
    assert not matches(odd, Wanted(arguments=values(path='"a.jpg"')))


def test_one_is_not_true() -> None:
    one = replace(LETTER, message=message(args=b'{"flag":1}'))
    assert matches(one, Wanted(arguments=values(flag="1")))
    assert not matches(one, Wanted(arguments=values(flag="true")))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (None, None),
        ("0s", 0),
        ("90s", 90_000),
        ("15m", 900_000),
        ("15 min", 900_000),
        ("2h", 7_200_000),
        ("1.5d", 129_600_000),
        ("1w", 604_800_000),
    ],
)
def test_an_age_is_read(text: str | None, ms: int | None) -> None:
    assert age_ms("--older", text) == ms


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2 hours", "1e3s", "2h30m", "nan", "٢h", "9" * 400 + "h"]
)
def test_what_is_no_age_is_refused_by_name(text: str) -> None:
    with pytest.raises(OptionError, match=r"--older .* is not an age: write 90s, 15m, 2h"):
        age_ms("--older", text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("01a20a8a-2ca7-7afe-9826-6ff2f874b9a4", bytes.fromhex("01a20a8a2ca77afe98266ff2f874b9a4")),
        ("01A20A8A2CA77AFE98266FF2F874B9A4", bytes.fromhex("01a20a8a2ca77afe98266ff2f874b9a4")),
        ("photos:app", None),
        ("01a20a8a", None),
        ("", None),
    ],
)
def test_an_id_is_told_from_an_app(text: str, found: Any) -> None:
    assert job_id(text) == found
