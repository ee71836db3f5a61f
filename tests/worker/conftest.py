"""The scene of the tests with whole workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.workers import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A folder with the zoo's app and its queue file; every process is ended after the test."""
    made = Scene(tmp_path)
    try:
        yield made
    finally:
        made.close()
