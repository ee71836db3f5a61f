"""Transcoded videos: real ones, within the time limit, and no ffmpeg that outlives its job."""

import os
import signal
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.examples.stage import Stage
from tests.worker.workers import Started, children, until

QUEUE = "videos.db"
QUIET = (imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error")


@pytest.fixture
def video(stage: Stage) -> Path:
    """Two seconds of ffmpeg's test picture, with a tone."""
    path = stage.folder / "talk.mov"
    picture = ("-f", "lavfi", "-i", "testsrc=duration=2:size=1280x720:rate=10")
    tone = ("-f", "lavfi", "-i", "sine=duration=2")
    subprocess.run([*QUIET, *picture, *tone, str(path)], check=True)
    return path


@pytest.fixture
def endless(stage: Stage) -> None:
    """A video that never comes: whoever opens it waits for ever."""
    os.mkfifo(stage.folder / "talk.mov")


def enqueue(stage: Stage, **options: object) -> None:
    """Enqueue talk.mov."""
    stage.run(
        "-c",
        f"""
from pathlib import Path
from transcode_video import transcode
transcode.options(**{options}).enqueue(Path("talk.mov").absolute())
""",
    )


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def ffmpeg_of(worker: Started) -> int:
    """Wait until ffmpeg is at work below a worker; return its process id."""

    def found() -> int | None:
        below = [worker.pid]
        while below:
            below = [child for pid in below for child in children(pid)]
            for pid in below:
                # Its library asks it for its version first: that one is not at work.
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"ffmpeg" in words[0] and b"-nostdin" in words:
                    return pid
        return None

    pid = until(found, "ffmpeg is at work")
    assert pid is not None
    return pid


def until_ended(pid: int) -> None:
    """Wait until a process is gone, even as a zombie."""
    until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of {pid}")


@pytest.mark.usefixtures("video")
def test_a_video_is_transcoded(stage: Stage) -> None:
    stage.run("transcode_video.py", "talk.mov")
    stage.drain("transcode_video")
    frames = imageio_ffmpeg.read_frames(stage.folder / "talk-640.mp4")
    found = next(frames)
    frames.close()
    assert (found["codec"], found["size"], found["duration"]) == ("h264", (640, 360), 2.0)
    assert found["pix_fmt"].startswith("yuv420p")
    assert imageio_ffmpeg.count_frames_and_secs(stage.folder / "talk-640.mp4") == (20, 2.0)
    assert stage.parts() == []


@pytest.mark.usefixtures("endless")
def test_at_the_time_limit_ffmpeg_is_ended_though_it_hangs(stage: Stage) -> None:
    enqueue(stage, timeout=2, max_attempts=1)
    worker = stage.worker("transcode_video")
    ffmpeg = ffmpeg_of(worker)
    # The wait in the job and the kill of the worker have the same deadline: either may be first.
    worker.line("ran longer than its timeout of 2 s|over its timeout of 2.0 s")
    until_ended(ffmpeg)
    stage.until_done(QUEUE)  # the line is written before the broker has it
    (letter,) = stage.dead(QUEUE)
    assert (letter.reason, letter.failures) == ("max_attempts", 1)
    assert not (stage.folder / "talk-640.mp4").exists()


@pytest.mark.usefixtures("endless")
def test_when_its_process_is_killed_ffmpeg_ends_too(stage: Stage) -> None:
    enqueue(stage)
    worker = stage.worker("transcode_video")
    ffmpeg = ffmpeg_of(worker)
    tether = parent(ffmpeg)
    os.kill(parent(tether), signal.SIGKILL)
    until_ended(ffmpeg)
    worker.line("again now, in a process of its own")


@pytest.mark.usefixtures("endless")
def test_a_stop_leaves_no_ffmpeg_and_gives_the_job_back(stage: Stage) -> None:
    enqueue(stage)
    worker = stage.worker("transcode_video", "--shutdown-timeout", "0.5")
    ffmpeg = ffmpeg_of(worker)
    assert worker.stop() == 1, worker.text
    until_ended(ffmpeg)
    assert stage.left(QUEUE) == 1


def test_a_video_whose_worker_was_killed_in_the_middle_is_made_whole_by_the_next(
    stage: Stage, video: Path
) -> None:
    saved = video.rename(stage.folder / "saved.mov")
    os.mkfifo(video)
    enqueue(stage, visibility_timeout=1)
    worker = stage.worker("transcode_video")
    ffmpeg = ffmpeg_of(worker)
    worker.kill()
    until_ended(ffmpeg)
    assert not (stage.folder / "talk-640.mp4").exists()
    saved.replace(video)
    stage.worker("transcode_video")
    stage.until_done(QUEUE)
    assert imageio_ffmpeg.count_frames_and_secs(stage.folder / "talk-640.mp4") == (20, 2.0)
