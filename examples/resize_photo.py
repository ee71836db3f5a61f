"""Resize photos, with Pillow.

`python resize_photo.py *.jpg` enqueues a job for each, `dibs worker resize_photo:app -c 4` does
them, four at a time: an open photo of 24 megapixels can take 70 MB.

A second run makes the same file in the same place, whole: `whole_file` says how.
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from whole_file import whole_file

from dibs import App

app = App("sqlite:///resizing.db")


# A plain `def` runs in a thread: Pillow lets go of the interpreter while it decodes and scales, so
# threads use every core. Photos come from strangers: one that crashes the decoder, or takes all
# the memory, is tried once more, alone in a process, and then is a dead letter (`max_crashes`).
# One that Pillow cannot read will not get better (`give_up_on`).
@app.task(queue="photos", max_crashes=2, give_up_on=UnidentifiedImageError, timeout=60)
def resize(photo: Path, width: int = 800) -> Path:
    """Make a JPEG of at most `width` pixels each way beside the photo; return its path."""
    small = photo.with_name(f"{photo.stem}-{width}.jpg")
    with Image.open(photo) as image, whole_file(small) as file:
        image.draft("RGB", (width, width))  # a JPEG is decoded at about that size: less memory
        upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.thumbnail((width, width))
        upright.save(file, "JPEG", quality=85)
    return small


if __name__ == "__main__":
    photos = [Path(name).absolute() for name in sys.argv[1:]]
    print(app.enqueue_many(resize.bind(photo) for photo in photos), "new jobs")
