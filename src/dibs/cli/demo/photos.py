"""The demo's photos: made from a seed, or found in a folder.

Owns: what a made photo looks like; which files of a folder are photos.
Must never: write into a folder that is not the demo's own.
Called by: `story.py`; and as `python -m dibs.cli.demo.photos FOLDER FIRST END`, one process a core.
"""

import sys
from collections.abc import Iterator
from hashlib import shake_256
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SIZE = (320, 240)
_GRAIN = (24, 18)
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}


def make(folder: Path, first: int, end: int) -> None:
    """Make the photos of these numbers: clouds of colour, other ones for every number."""
    width, height = _GRAIN
    for number in range(first, end):
        grain = shake_256(f"dibs demo {number}".encode()).digest(width * height * 3)
        cloud = Image.frombytes("RGB", _GRAIN, grain).resize(SIZE, Image.Resampling.BICUBIC)
        cloud.save(folder / f"photo-{number:06}.jpg", "JPEG", quality=85)


def found_in(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are photos, in a stable order."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file() and _opens(path):
            yield path.resolve()


def _opens(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return min(image.size) > 0
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return False


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
