"""The signals that stop a worker: SIGTERM, Ctrl-C, and the SIGHUP of a closed terminal.

Owns: who hears them while a worker is at work.
Must never: keep one for longer, take one that was ignored before (`nohup` keeps workers alive), or
have a handler raise: an import lock's callback swallows what is raised in it, and the stop is lost.
Called by: `dibs worker` and `EmbeddedWorker`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from dibs.runners.contract import THE_PUMPS


@contextmanager
def stop_signals(hear: Callable[[int], None], wake: int) -> Iterator[None]:
    """Have `hear` called with each, and a byte written to the descriptor `wake` before.

    Outside the main thread, which alone can hear signals, nothing is heard. Where the program has
    its signals written elsewhere, as an event loop in this thread does, no byte is, for what that
    loop waits for is not ours to take: a stop right before a wait is then found after it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [kind for kind in THE_PUMPS if signal.getsignal(kind) is not signal.SIG_IGN]
    # Ctrl-C is taken first and given back last: while it is not ours, `KeyboardInterrupt` may be
    # raised between any two steps.
    with ExitStack() as giving_back:
        for kind in kinds:
            before = signal.signal(kind, lambda number, _: hear(number))
            giving_back.callback(signal.signal, kind, before)
        # By the interpreter's own handler: a signal that comes right before the wait begins is
        # handled by ours after the wait, which nothing else might end.
        elsewhere = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        if elsewhere == -1:
            giving_back.callback(signal.set_wakeup_fd, -1)
        else:
            signal.set_wakeup_fd(elsewhere)
        yield
