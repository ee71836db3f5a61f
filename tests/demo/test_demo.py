"""The demo, small: a worker dies, nothing is lost, and the audit would notice if it were."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dibs.cli.demo.audit import audit
from dibs.cli.demo.photos import make
from dibs.cli.demo.tasks import RECORD, render

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


def test_a_worker_dies_and_nothing_is_lost(environment: dict[str, str], tmp_path: Path) -> None:
    shown = demo(environment, "--photos", "60", "--workers", "4")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "with SIGKILL, in the middle of" in shown.stdout
    figures = {
        line[2:28].strip(): line[28:].split()[0]
        for line in shown.stdout.splitlines()
        if "   " in line
    }
    assert figures["jobs published"] == figures["done"] == "60"
    assert figures["lost"] == figures["wrong"] == "0"
    assert int(figures["delivered more than once"]) >= 1
    assert "audit passed" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_photos_of_ones_own_are_only_read(environment: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    make(own, 0, 12)
    (own / "notes.txt").write_text("no photo")
    (own / "broken.jpg").write_bytes(b"no photo either")
    before = {path: path.read_bytes() for path in own.iterdir()}
    shown = demo(environment, "--dir", str(own), "--workers", "2", "--keep")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "found 12 photos" in shown.stdout
    assert {path: path.read_bytes() for path in own.iterdir()} == before
    (kept,) = (path for path in tmp_path.iterdir() if path.name.startswith("dibs-demo-"))
    assert len(list((kept / "thumbnails").glob("*.jpg"))) == 12


def test_an_empty_folder_is_a_mistake(environment: dict[str, str], tmp_path: Path) -> None:
    shown = demo(environment, "--dir", str(tmp_path))
    assert shown.returncode == 2
    assert "there are no photos in" in shown.stderr


@pytest.fixture
def photos(tmp_path: Path) -> dict[Path, Path]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "thumbnails").mkdir()
    make(tmp_path / "photos", 0, 4)
    pairs = {p: tmp_path / "thumbnails" / p.name for p in sorted((tmp_path / "photos").iterdir())}
    for photo, thumbnail in pairs.items():
        thumbnail.write_bytes(render(str(photo)))
    return pairs


def test_the_audit_passes_what_is_right(photos: dict[Path, Path], tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("started 7 a.jpg\nstarted 8 a.jpg\nfinished 8 a.jpg\n")
    seen: list[int] = []
    verdict = audit(photos, tmp_path, 7, seen.append)
    assert verdict.passed
    assert seen == [1, 2, 3, 4]
    assert (verdict.runs, verdict.repeated, verdict.repeated_by_kill) == (2, 1, 1)


def test_the_audit_finds_what_is_lost_wrong_or_strange(
    photos: dict[Path, Path], tmp_path: Path
) -> None:
    first, second, third, _ = photos.values()
    first.unlink()
    second.write_bytes(third.read_bytes())
    third.write_bytes(third.read_bytes()[:-20])
    (tmp_path / "thumbnails" / "other.jpg").touch()
    verdict = audit(photos, tmp_path, 7, lambda _: None)
    assert not verdict.passed
    assert (verdict.correct, verdict.lost, verdict.wrong, verdict.strange) == (1, 1, 2, 1)


def test_an_interrupted_demo_leaves_no_process(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dibs", "demo", "--photos", "3000"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = next(line for line in process.stdout if "started" in line)
        workers = [int(word) for word in printed.split() if word.isdigit()][:2]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(SECONDS) == 130
    assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.killpg(worker, 0)
    assert not list(tmp_path.iterdir())
