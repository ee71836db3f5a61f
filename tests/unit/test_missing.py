"""On a machine that lacks a server: what needs it is left out, and nothing fails of that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_what_needs_a_server_that_is_not_installed_is_skipped(broker: str) -> None:
    """PostgreSQL is found without PATH, so it cannot be hidden."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"tests/conformance/test_{broker}.py"],
        cwd=ROOT,
        env={"PATH": "/nowhere", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    counts = done.stdout.splitlines()[-1]
    assert "skipped" in counts
    assert "passed" not in counts
