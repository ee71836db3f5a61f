"""Raising between any two steps of the interpreter, one after the other: no signal comes so well.

Owns: the counting of steps in the frames of one file. Must never: leave a trace function set.
Called by: tests of what an interruption may leave behind.
"""

import sys
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Within it, a `KeyboardInterrupt` at one step of the code of a file; `came` says if it did.

    `may` is asked whether it may be raised now; `last` is code at whose call it is raised anyway,
    because what comes after it would wait.
    """

    def __init__(
        self, file: str, step: int, may: Callable[[], bool], last: Callable[[FrameType], bool]
    ) -> None:
        self._file = file
        self._left = step
        self._may = may
        self._last = last
        self.came = self.is_last = False

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(
        self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None
    ) -> bool:
        sys.settrace(None)
        return kind is KeyboardInterrupt

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self._file):
            return None
        if event == "call" and self._last(frame):
            self.is_last = True
            raise KeyboardInterrupt
        frame.f_trace_opcodes = True
        if event == "opcode" and self._may() and not self.came:
            self._left -= 1
            if self._left < 0:
                self.came = True
                raise KeyboardInterrupt
        return self._trace


def each_step(
    file: str,
    may: Callable[[], bool] = lambda: True,
    last: Callable[[FrameType], bool] = lambda _: False,
) -> Iterator[Interrupt]:
    """Yield an interruption at the first step, at the second, and so on until there is none."""
    step = 0
    while True:
        interrupt = Interrupt(file, step, may, last)
        yield interrupt
        if interrupt.is_last or not interrupt.came:
            assert step > 10, "hardly anything was interrupted"
            return
        step += 1
