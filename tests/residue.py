"""What is left in a process of something that was done again and again.

Called by: the tests of B12, one for each broker: a reconnect that leaks is not seen in a day.
"""

import gc
import os
from collections.abc import Callable
from pathlib import Path

from tests.worker.workers import until

TIMES = 1_000
WARM = 200
"""So often it is done before anything is counted: what is made once is not left behind."""
COLLECT = 100
"""What lies in cycles, as the connections of some libraries do, is garbage, and no leak: without
this the memory would be that of the collector's own rhythm."""
MOST_BYTES = 5 << 20


def leaves_nothing(once: Callable[[], object], times: int = TIMES) -> None:
    """Do it a thousand times; hold open files and memory to what they were after the first few."""
    _repeat(once, min(WARM, times // 5))
    files, memory = open_files(), resident_bytes()
    _repeat(once, times)
    # What another thread was just about to open or to close is no leak.
    until(lambda: open_files() <= files, "descriptors are left", 5)
    assert resident_bytes() - memory < MOST_BYTES


def _repeat(once: Callable[[], object], times: int) -> None:
    for number in range(times):
        once()
        if number % COLLECT == 0:
            gc.collect()


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    """Return the memory that this process takes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
