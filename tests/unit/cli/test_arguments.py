"""`--arg NAME=VALUE`: what is JSON, what is text, and what is refused."""

from contextlib import suppress

import pytest

from dibs.cli.arguments import named_values
from dibs.cli.selecting import wanted_of
from dibs.errors import ArgumentError, OptionError

DEEP = 50_000


@pytest.mark.parametrize(
    ("value", "json"),
    [
        ("[1, 2]", b"[1, 2]"),
        ("[1, 2", b'"[1, 2"'),
        ("[" * 20, b'"' + b"[" * 20 + b'"'),
        ('"' + "[" * DEEP + '"', b'"' + b"[" * DEEP + b'"'),
    ],
)
def test_a_value_is_json_where_it_reads_as_json(value: str, json: bytes) -> None:
    assert bytes(named_values((f"x={value}",))["x"]) == json


def test_a_name_with_a_dot_is_no_argument_and_leads_into_none() -> None:
    with pytest.raises(OptionError, match=r"--arg o\.id: .* has no dot: give its whole value"):
        named_values(("o.id=1",))
    assert bytes(named_values(("o=1.5",))["o"]) == b"1.5"


@pytest.mark.parametrize("value", ["[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP])
def test_what_is_nested_too_deeply_is_no_text_in_silence(value: str) -> None:
    with pytest.raises(ArgumentError, match="--arg x: its value is nested too deeply"):
        named_values((f"x={value}",))


def test_what_a_filter_cannot_compare_is_refused() -> None:
    """At every depth: what the one parser still reads, the other may not."""
    nothing = dict.fromkeys(("queue", "task", "error", "older", "newer"))
    for depth in range(700, 1_100):
        value = "[" * depth + "]" * depth
        with suppress(ArgumentError):
            wanted = wanted_of(0, **nothing, args=(f"x={value}",))
            assert wanted.arguments == {"x": value}
