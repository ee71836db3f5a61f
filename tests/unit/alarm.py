"""An alarm whose handler raises, as that of Ctrl-C does: at any moment, in the main thread."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raising_alarm() -> Iterator[None]:
    """Raise wherever this thread is when the alarm comes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # what is raised in a callback of the collector is raised to nobody
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
