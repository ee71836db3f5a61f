"""What an idle `dibs worker` costs: processor time of all its processes and threads."""

import time

from benchmarks.harness import Context, Row, at_most, folder, plain
from benchmarks.store import opened
from benchmarks.workers import command, cpu_seconds, family

SECONDS = 20.0
SETTLE_SECONDS = 3.0


def measure(context: Context) -> list[Row]:
    """Look at the processor time that the kernel has counted, twice."""
    seconds = SECONDS / 4 if context.quick else SECONDS
    with folder() as place:
        path = place / "queue.db"
        opened(path).close()
        with command(path, "-c", "50") as child:
            time.sleep(SETTLE_SECONDS)
            before = cpu_seconds(child.pid)
            time.sleep(seconds)
            share = (cpu_seconds(child.pid) - before) / seconds
            processes = len(family(child.pid))
    note = f"{processes} processes, over {seconds:g} s"
    return [plain("idle worker", "% of a core", [share * 100], at_most(0.2), note)]
