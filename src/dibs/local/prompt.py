"""A thread that holds what other processes wait for should not wait for its own interpreter.

Each statement of a transaction gives the interpreter's lock away and asks for it again, and where
tasks compute, each asking takes a switch interval, 5 ms: a transaction of ten statements held the
queue file for 60 ms (benchmarks/figures/fan_out.py).
Owns: the switch interval while any thread of this process is in `prompt_interpreter`.
Must never: leave it changed. Called by: `database`, around what it does with the lock held.
"""

import sys
from threading import get_ident

from dibs.local.fork import drop_in_child

PROMPT_SECONDS = 0.000_008
"""One that `sys.getswitchinterval` returns as it was set: it rounds, and 0.000_01 is another."""


class PromptInterpreter:
    """Has this process's other threads give way at once, that is within the timer's leeway."""

    def __init__(self) -> None:
        self._usual = sys.getswitchinterval()
        self.drop()
        drop_in_child(self)

    def drop(self) -> None:
        """Be as new in a forked child, where the threads that were inside do not exist."""
        # Which, and not how many: a signal's handler may raise where a method begins, and who did
        # not get out for that does so the next time.
        self._inside: set[int] = set()
        sys.setswitchinterval(self._usual)

    # Without a lock, which costs as much as all the rest: whoever leaves last finds nobody inside.
    # One who comes in just then may have to do with the usual interval for once.

    def __enter__(self) -> None:
        if not self._inside and (found := sys.getswitchinterval()) != PROMPT_SECONDS:
            self._usual = found
        self._inside.add(get_ident())
        sys.setswitchinterval(PROMPT_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._inside.discard(get_ident())
        if not self._inside:
            sys.setswitchinterval(self._usual)


prompt_interpreter = PromptInterpreter()
"""The one of this process: whoever is in it shares it."""
