"""Files that are whole or not there: for the examples that make one.

A run can be killed in the middle of a file, and two runs of one job can overlap when a worker was
away for longer than its lease. So each run writes a file of its own beside the target and renames
it when it is complete. A rename is atomic: a reader finds the old file or the new one, and a
second run puts the same file in the same place. A run that is killed leaves a hidden part, which
nobody reads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file to write to; it becomes `target` at the end of the block, if that is reached."""
    part = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        # The acknowledgement will survive a power cut, so the file must do so first: its content
        # by the fsync above, its name by this one.
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        part.unlink(missing_ok=True)
