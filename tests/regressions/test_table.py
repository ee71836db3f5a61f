"""The table of README.md is whole, and what it points at is there."""

import re
from pathlib import Path

import pytest

from tests.regressions.faults import FAULTS

HERE = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (HERE / "README.md").read_text().splitlines()
    if line.startswith("| B")
]


def test_every_failure_of_the_list_has_its_row() -> None:
    assert [row[0] for row in ROWS] == [f"B{number}" for number in range(1, 51)]


def test_every_fault_is_in_the_table() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[3])}
    assert named == set(FAULTS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_points_at_a_test_and_its_fault_or_says_why_not(row: list[str]) -> None:
    _, symptom, held_by, fault = row
    tests = re.findall(r"`([^`]+)::(\w+)`", held_by)
    assert symptom
    assert bool(tests) == bool(fault), "a test and its fault belong together"
    for path, name in tests:
        assert f"def {name}(" in (HERE / path).read_text()
