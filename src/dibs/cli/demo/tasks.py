"""The demo's app, as a user would write it: one task makes a thumbnail, two charge a card.

Owns: what a correct thumbnail is (`render`), and what charging a card twice takes.
Must never: write into a photo, or leave a half-written thumbnail under its own name.
Called by: the demo's workers, as `dibs.cli.demo.tasks:app`; `audit.py` renders again to compare.
"""

import io
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from dibs import App, context, once
from dibs.cli.demo import shop as shops
from dibs.cli.demo.record import note

WIDTH = 96
VISIBILITY_TIMEOUT = 4

app = App()


@app.task(queue="demo", visibility_timeout=VISIBILITY_TIMEOUT, max_attempts=3)
def resize(photo: str, thumbnail: str, wait: float) -> None:
    """Write the thumbnail of a photo. Running it twice leaves what running it once does."""
    target = Path(thumbnail)
    with _recorded(target.parent.parent, "resize"):
        time.sleep(wait)
        unfinished = target.with_name(f".{target.name}.{context().job_id}.{context().fence}")
        unfinished.write_bytes(render(photo))
        unfinished.replace(target)


@app.task(queue="demo", visibility_timeout=VISIBILITY_TIMEOUT, max_attempts=3)
def charge_naively(shop: str, card: int, wait: float) -> None:
    """Charge a card as if every job ran once. Whatever runs it twice charges the card twice."""
    with _recorded(Path(shop).parent, "charge_naively"):
        with closing(shops.opened(shop)) as connection:
            shops.charge(connection, "naive_charges", card)
        time.sleep(wait)


@app.task(queue="demo", visibility_timeout=VISIBILITY_TIMEOUT, max_attempts=3)
def charge_once(shop: str, card: int, wait: float) -> None:
    """Charge a card in one transaction with the record that it is charged."""
    with _recorded(Path(shop).parent, "charge_once"):
        with closing(shops.opened(shop)) as connection, once(connection) as first:
            if first:
                shops.charge(connection, "charges", card)
        time.sleep(wait)


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


@contextmanager
def _recorded(folder: Path, task: str) -> Iterator[None]:
    """Record the beginning of a run, and its end, also by an error, if it comes to one."""
    worker, job = os.getppid(), context().job_id
    note(folder, "started", worker, task, job)
    try:
        yield
    finally:
        note(folder, "finished", worker, task, job)
