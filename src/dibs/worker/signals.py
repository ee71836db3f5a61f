"""The signals that stop a worker: SIGTERM, Ctrl-C, and the SIGHUP of a closed terminal.

Owns: who hears them while a worker is at work.
Must never: keep one for longer, or take one that was ignored before: `nohup` keeps workers alive.
Called by: `dibs worker` and `EmbeddedWorker`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dibs.runners.contract import THE_PUMPS


@contextmanager
def stop_signals(hear: Callable[[int], None]) -> Iterator[None]:
    """Have `hear` called with each; outside the main thread, which alone can, with none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [kind for kind in THE_PUMPS if signal.getsignal(kind) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, lambda number, _: hear(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
