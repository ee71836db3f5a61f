"""The demo, small, as one runs it: faults befall its workers, and nothing is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dibs.cli.demo.photos import make

SECONDS = 100


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k != "DIBS_URL"}
    return {**inherited, "TMPDIR": str(tmp_path)}


def demo(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dibs", "demo", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_faults_lose_nothing_and_once_charges_every_card_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    shown = demo(environment, "--photos", "60", "--workers", "4")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for told in (
        "of every 25 acks of",
        "with SIGKILL, in the middle of",
        "with SIGSTOP, outside of a commit, with",
        "its acks come too late",
        "audit passed",
    ):
        assert told in shown.stdout
    figures = {
        line[2:30].strip(): int(line[30:].split()[0])
        for line in shown.stdout.splitlines()
        if "   " in line
    }
    assert figures["jobs published"] == figures["done"] == 60 + 2 * 50
    assert figures["lost"] == figures["wrong"] == 0
    assert figures["cards charged twice by once"] == 0
    assert figures["cards charged twice naively"] >= 1
    assert figures["acks lost on the way"] >= 1
    assert figures["stale acks refused"] >= 1
    assert figures["delivered more than once"] > figures["acks lost on the way"]
    assert "\x1b" not in shown.stdout
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_photos_of_ones_own_are_only_read(environment: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    make(own, 0, 12)
    (own / "notes.txt").write_text("no photo")
    (own / "broken.jpg").write_bytes(b"no photo either")
    before = {path: path.read_bytes() for path in own.iterdir()}
    shown = demo(environment, "--dir", str(own), "--workers", "3", "--keep")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "found 12 photos" in shown.stdout
    assert {path: path.read_bytes() for path in own.iterdir()} == before
    (kept,) = (path for path in tmp_path.iterdir() if path.name.startswith("dibs-demo-"))
    assert len(list((kept / "thumbnails").glob("*.jpg"))) == 12


def test_an_empty_folder_is_a_mistake(environment: dict[str, str], tmp_path: Path) -> None:
    shown = demo(environment, "--dir", str(tmp_path))
    assert shown.returncode == 2
    assert "there are no photos in" in shown.stderr


def test_an_interrupted_demo_leaves_no_process(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dibs", "demo", "--photos", "3000"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = next(line for line in process.stdout if "started" in line)
        workers = [int(word) for word in printed.split() if word.isdigit()][:3]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(SECONDS) == 130
    assert len(workers) == 3
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.killpg(worker, 0)
    assert not list(tmp_path.iterdir())
