"""A process that enqueues one by one while its standard input is open.

It says "ready" when its file is open, starts at the first line it reads, and at the end of its
input prints when each call began and how long it took, in nanoseconds, as JSON. Called by the
figure `contention`: `python -m benchmarks.producers`.
"""

import os
import select
import sys
import time

import msgspec
from msgspec import Struct

from benchmarks.apps import numbered

INPUT = 0


class Calls(Struct):
    """What one producer saw: pairs of start and duration, and the texts of errors."""

    calls: list[tuple[int, int]] = []
    errors: list[str] = []


def main() -> None:
    """Enqueue until the input ends."""
    seen = Calls()
    numbered.enqueue(0)
    print("ready", flush=True)
    os.read(INPUT, 1)
    number = 0
    while not select.select([INPUT], [], [], 0)[0]:
        number += 1
        before = time.monotonic_ns()
        try:
            numbered.enqueue(number)
        except Exception as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
        seen.calls.append((before, time.monotonic_ns() - before))
    sys.stdout.buffer.write(msgspec.json.encode(seen))


if __name__ == "__main__":
    main()
