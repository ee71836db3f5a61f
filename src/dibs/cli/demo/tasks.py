"""The demo's app, as a user would write it: one task that makes a thumbnail.

Owns: what a correct thumbnail is (`render`), and the record of runs that the audit counts.
Must never: write into a photo, or leave a half-written thumbnail under its own name.
Called by: the demo's workers, as `dibs.cli.demo.tasks:app`; `audit.py` renders again to compare.
"""

import io
import os
import time
from pathlib import Path

from PIL import Image, ImageOps

from dibs import App, context

WIDTH = 96
RECORD = "runs.log"
VISIBILITY_TIMEOUT = 4

app = App()


@app.task(queue="photos", visibility_timeout=VISIBILITY_TIMEOUT, max_attempts=3)
def resize(photo: str, thumbnail: str, wait: float) -> None:
    """Write the thumbnail of a photo. Running it twice leaves what running it once does."""
    target = Path(thumbnail)
    _record("started", target)
    time.sleep(wait)
    unfinished = target.with_name(f".{target.name}.{context().job_id}.{context().fence}")
    unfinished.write_bytes(render(photo))
    unfinished.replace(target)
    _record("finished", target)


def render(photo: str) -> bytes:
    """Return the thumbnail as JPEG: the same bytes for the same photo, every time."""
    with Image.open(photo) as image:
        image.draft("RGB", (2 * WIDTH, 2 * WIDTH))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    height = max(1, round(upright.height * WIDTH / upright.width))
    small = upright.resize((WIDTH, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()


def _record(what: str, target: Path) -> None:
    """Append one line in one write, which no other process can cut in two."""
    line = f"{what} {os.getppid()} {target.name}\n".encode()
    record = os.open(target.parent.parent / RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(record, line)
    finally:
        os.close(record)
