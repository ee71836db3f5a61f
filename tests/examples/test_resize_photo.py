"""Resized photos: upright, whole, one file however often a job is delivered."""

import signal

import pytest
from PIL import Image

from tests.examples.stage import Stage

QUEUE = "resizing.db"
SHORT_LEASE = """
from pathlib import Path
from resize_photo import resize
resize.options(visibility_timeout=1).enqueue(Path("a.jpg").absolute())
"""
ON_ITS_SIDE = 6


@pytest.fixture
def photo(stage: Stage) -> None:
    """A photo of a camera that was held upright: it lies on its side, and says so."""
    image = Image.effect_noise((1_600, 1_200), 80).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = ON_ITS_SIDE
    image.save(stage.folder / "a.jpg", exif=exif)


@pytest.mark.usefixtures("photo")
def test_photos_are_resized_and_stand_upright(stage: Stage) -> None:
    Image.new("RGBA", (900, 300)).save(stage.folder / "b.png")
    assert stage.run("resize_photo.py", "a.jpg", "b.png") == "2 new jobs\n"
    stage.drain("resize_photo")
    for name, size in (("a-800.jpg", (600, 800)), ("b-800.jpg", (800, 267))):
        with Image.open(stage.folder / name) as small:
            assert small.size == size
    assert stage.parts() == []


@pytest.mark.usefixtures("photo")
def test_a_photo_that_is_delivered_twice_is_one_file(stage: Stage) -> None:
    stage.run("-c", SHORT_LEASE)
    stage.vanish("resize_photo")
    first = (stage.folder / "a-800.jpg").read_bytes()
    assert stage.left(QUEUE) == 1, "its worker could not acknowledge it"
    stage.worker("resize_photo")
    stage.until_done(QUEUE)
    assert (stage.folder / "a-800.jpg").read_bytes() == first
    assert len(list(stage.folder.glob("*.jpg"))) == 2
    assert stage.parts() == []


def test_what_is_no_photo_is_a_dead_letter_at_once(stage: Stage) -> None:
    (stage.folder / "a.jpg").write_text("no photo")
    stage.run("resize_photo.py", "a.jpg")
    stage.drain("resize_photo")
    (letter,) = stage.dead(QUEUE)
    assert letter.error.type == "PIL.UnidentifiedImageError"
    assert (letter.reason, letter.failures) == ("not_retried", 1)
    assert not (stage.folder / "a-800.jpg").exists()
    assert stage.parts() == []


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise OSError"])
def test_a_run_that_is_ended_in_the_middle_leaves_the_old_file(stage: Stage, end: str) -> None:
    (stage.folder / "a.txt").write_text("old")
    lines = (
        "import os, signal",
        "from pathlib import Path",
        "from whole_file import whole_file",
        "with whole_file(Path('a.txt')) as file:",
        "    file.write(b'new')",
        "    file.flush()",
        f"    {end}",
    )
    stage.run("-c", "\n".join(lines), code=-signal.SIGKILL if "kill" in end else 1)
    assert (stage.folder / "a.txt").read_text() == "old"
    assert len(stage.parts()) == ("kill" in end), "only a killed run leaves its part"
