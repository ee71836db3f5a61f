"""A thread that holds what other processes wait for should not wait for its own interpreter.

Each statement of a transaction gives the interpreter's lock away and asks for it again, and where
tasks compute, each asking takes a switch interval, 5 ms: a transaction of ten statements held the
queue file for 60 ms (benchmarks/figures/fan_out.py).
Owns: the switch interval while any thread of this process is in `prompt_interpreter`.
Must never: leave it changed. Called by: `database`, around what it does with the lock held.
"""

import sys
import threading

from dibs.local.fork import drop_in_child

PROMPT_SECONDS = 0.000_01


class PromptInterpreter:
    """Has this process's other threads give way at once, that is within the timer's leeway."""

    def __init__(self) -> None:
        self._usual = sys.getswitchinterval()
        self.drop()
        drop_in_child(self)

    def drop(self) -> None:
        """Be as new in a forked child, where the threads that were inside do not exist."""
        self._mutex = threading.Lock()
        self._inside = 0
        sys.setswitchinterval(self._usual)

    def __enter__(self) -> None:
        with self._mutex:
            self._inside += 1
            if self._inside == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(PROMPT_SECONDS)

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._usual)


prompt_interpreter = PromptInterpreter()
"""The one of this process: whoever is in it shares it."""
