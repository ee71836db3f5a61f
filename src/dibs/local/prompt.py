"""A thread that holds what other processes wait for should not wait for its own interpreter.

Each statement of a transaction gives the interpreter's lock away and asks for it again, and where
tasks compute, each asking takes a switch interval, 5 ms: a transaction of ten statements held the
queue file for 60 ms (benchmarks/figures/fan_out.py).
Owns: the switch interval while any thread of this process is in `prompt_interpreter`.
Must never: leave it changed. Called by: `database`, around what it does with the lock held.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PROMPT_SECONDS = 0.000_2


class _Inside:
    mutex = threading.Lock()
    threads = 0
    usual = 0.0


@contextmanager
def prompt_interpreter() -> Iterator[None]:
    """Have this process's other threads give way within a fifth of a millisecond."""
    if threading.active_count() == 1:
        yield
        return
    with _Inside.mutex:
        _Inside.threads += 1
        if _Inside.threads == 1:
            _Inside.usual = sys.getswitchinterval()
            sys.setswitchinterval(PROMPT_SECONDS)
    try:
        yield
    finally:
        with _Inside.mutex:
            _Inside.threads -= 1
            if _Inside.threads == 0:
                sys.setswitchinterval(_Inside.usual)
