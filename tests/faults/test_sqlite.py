"""Faults done to the embedded broker; and to two that are wrong on purpose, which must be found."""

from pathlib import Path

import pytest

from tests.faults.grounds import sqlite
from tests.faults.run import run
from tests.faults.scenarios import SCENARIOS, SHORT
from tests.faults.short import ShortPass


class TestSqlite(ShortPass):
    name = "sqlite"


@pytest.mark.parametrize(
    ("scenario", "fault", "finding"),
    [
        ("kill", "pops", "lost: "),
        ("pause", "acks_by_id_alone", "the ack of job .* with the old fence was applied"),
    ],
)
def test_a_broker_that_is_wrong_is_found(
    scenario: str, fault: str, finding: str, tmp_path: Path
) -> None:
    ground = sqlite()
    with ground.serving(tmp_path) as server:
        found = run(ground, server, SCENARIOS[scenario], SHORT, fault)
    with pytest.raises(AssertionError, match=finding):
        assert found.good, found.broken
