"""Watched files: what was saved while the app was being imported is a change, too."""

import os
import time
from pathlib import Path

import pytest

from dibs.cli.reload import Files

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "photos.py"
    path.write_text("a")
    old_ns = time.time_ns() - HOUR_NS
    os.utime(path, ns=(old_ns, old_ns))
    return path


def test_a_file_as_it_was_is_no_change(code: Path) -> None:
    files = Files([str(code)], time.time_ns())
    assert not files()
    assert files.changed is None


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("b")])
def test_a_saved_or_deleted_file_is_a_change(code: Path, change: object) -> None:
    files = Files([str(code)], time.time_ns())
    assert callable(change)
    change(code)
    assert files()
    assert files.changed == str(code)


def test_what_was_saved_during_the_import_is_a_change(code: Path) -> None:
    since_ns = time.time_ns()
    code.write_text("b")
    assert Files([str(code)], since_ns)()


def test_a_time_to_come_does_not_start_anew_for_ever(code: Path) -> None:
    later_ns = time.time_ns() + HOUR_NS
    os.utime(code, ns=(later_ns, later_ns))
    assert not Files([str(code)], time.time_ns())()
