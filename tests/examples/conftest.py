"""The stage of the tests of examples/."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.stage import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A folder with the programs of examples/; every process is ended after the test."""
    monkeypatch.delenv("DIBS_URL", raising=False)
    made = Stage(tmp_path)
    try:
        yield made
    finally:
        made.close()
