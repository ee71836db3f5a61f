"""Transcode videos, with ffmpeg.

`python transcode_video.py talk.mov` enqueues one, `dibs worker transcode_video:app` makes
`talk-640.mp4`. A stop of the worker waits 30 s for a video: what is not done by then starts over
elsewhere, uncharged, unless `--shutdown-timeout` is longer.

A second run makes the same file in the same place, whole: `whole_file` says how.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import tether
from imageio_ffmpeg import get_ffmpeg_exe
from whole_file import whole_file

from dibs import App, context

app = App("sqlite:///videos.db")


# `timeout` is the limit of one run, an hour. `runs_in="process"` makes it a hard one: what runs
# late is killed at once, as it has no neighbours. The visibility timeout is still 30 s: it is
# renewed during the run, and if the worker dies, another has the video half a minute later. Few
# process jobs run at a time, and all else in their queue waits meanwhile: so it is theirs alone.
@app.task(queue="videos", runs_in="process", timeout=3_600, max_attempts=2)
def transcode(video: Path, width: int = 640) -> Path:
    """Make an MP4 of that width beside the video; return its path."""
    small = video.with_name(f"{video.stem}-{width}.mp4")
    with whole_file(small) as file:
        ffmpeg(
            *("-i", str(video), "-vf", f"scale={width}:-2"),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"),
            *("-movflags", "+faststart", "-f", "mp4", "-y", file.name),
        )
    return small


def ffmpeg(*arguments: str) -> None:
    """Run ffmpeg for no longer than this job may take, and never longer than this process lives."""
    quietly = [get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", *arguments]
    command = [sys.executable, tether.__file__, *quietly]
    with tempfile.TemporaryFile() as complaints:
        # A session of its own: the Ctrl-C of a terminal lets running jobs finish, ffmpeg too.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=complaints, start_new_session=True
        ) as process:
            # If this raises TimeoutExpired, the block closes the pipe, and the tether kills ffmpeg.
            process.wait(context().remaining_seconds)
        if process.returncode:
            complaints.seek(0)
            raise RuntimeError(complaints.read(10_000).decode(errors="replace"))


if __name__ == "__main__":
    print(transcode.enqueue(Path(sys.argv[1]).absolute()))
