"""The signals that stop a worker: SIGTERM, Ctrl-C, and the SIGHUP of a closed terminal.

Owns: who hears them while a worker is at work.
Must never: keep one for longer, take one that was ignored before (`nohup` keeps workers alive), or
have a handler raise: an import lock's callback swallows what is raised in it, and the stop is lost.
Called by: `dibs worker` and `EmbeddedWorker`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dibs.runners.contract import THE_PUMPS


@contextmanager
def stop_signals(hear: Callable[[int], None], wake: int) -> Iterator[None]:
    """Have `hear` called with each, and a byte written to the descriptor `wake` before.

    Outside the main thread, which alone can hear signals, nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [kind for kind in THE_PUMPS if signal.getsignal(kind) is not signal.SIG_IGN]
    # By the kernel's handler, not by ours: one that comes right before the wait begins is handled
    # after the wait, which nothing else might end.
    waked_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    before = {kind: signal.signal(kind, lambda number, _: hear(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.set_wakeup_fd(waked_before)
