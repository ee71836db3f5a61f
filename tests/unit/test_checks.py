"""`refusal` names what is wrong with a message, at the limit and one past it."""

from typing import Any

import pytest
from msgspec.structs import replace

from dibs.brokers.capabilities import Capabilities
from dibs.brokers.checks import refusal
from dibs.idempotency import HEADER
from dibs.testing.making import lawful_fields, message, refused_fields

CAPABILITIES = Capabilities(
    durability="D0", durability_note="none", batch_limit=10, payload_limit=100_000
)
MODEST = replace(
    CAPABILITIES, priorities=False, unique_keys=False, results=False, longest_lease_ms=43_200_000
)
REFUSED = refused_fields(CAPABILITIES)
LAWFUL = lawful_fields(CAPABILITIES)


def test_a_plain_message_is_stored() -> None:
    assert refusal(message(), CAPABILITIES) is None


@pytest.mark.parametrize("fields", LAWFUL.values(), ids=LAWFUL)
def test_what_is_within_the_limits_is_stored(fields: dict[str, Any]) -> None:
    assert refusal(message(**fields), CAPABILITIES) is None


@pytest.mark.parametrize(("fields", "word"), REFUSED.values(), ids=REFUSED)
def test_what_is_past_a_limit_is_refused_by_name(fields: dict[str, Any], word: str) -> None:
    why = refusal(message(**fields), CAPABILITIES)
    assert why is not None
    assert word in why
    assert why.encode(), "a reason can be printed, whatever it quotes"


@pytest.mark.parametrize(("fields", "word"), REFUSED.values(), ids=REFUSED)
def test_a_message_that_is_unusual_in_other_ways_too_is_refused_all_the_same(
    fields: dict[str, Any], word: str
) -> None:
    unusual = {"headers": {"a": "b"}, "unique_key": "k", "priority": 9, **fields}
    assert word in (refusal(message(**unusual), CAPABILITIES) or "")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"priority": 1}, "priority"),
        ({"unique_key": "k"}, "unique key"),
        ({"headers": {HEADER: "k"}}, "idempotency key"),
        ({"visibility_timeout_ms": 43_200_001}, "visibility"),
    ],
)
def test_what_this_broker_cannot_keep_is_refused(fields: dict[str, Any], word: str) -> None:
    assert word in (refusal(message(**fields), MODEST) or "")


def test_the_longest_lease_of_this_broker_is_stored() -> None:
    assert refusal(message(visibility_timeout_ms=43_200_000), MODEST) is None


def test_the_first_of_several_faults_is_named() -> None:
    assert "id" in (refusal(message("", id=b"", priority=11), CAPABILITIES) or "")
