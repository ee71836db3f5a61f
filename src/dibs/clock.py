"""The one place that reads a clock, and draws randomness.

Owns: the `Clock` and `Randomness` seams and the system's implementation of them.
Must never: be read by the core directly; both are passed in, so that the pump, the policy and
the brokers run under virtual time in tests.
Called by: whoever starts a broker, a pump or a producer.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

Randomness = Callable[[int], bytes]
"""Draws so many bytes, which nobody else has drawn and nobody can guess."""


class Clock(Protocol):
    """Three clocks that must not be mixed up."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970. It may step; only due times and what people read use it."""
        ...

    def boot_ms(self) -> int:
        """Milliseconds since the machine started, time asleep included. Leases use it."""
        ...

    def boot_id(self) -> str:
        """A name for this run of the machine; a lease of another boot has expired."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; every duration in a process is counted on it."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """CLOCK_BOOTTIME on Linux; macOS counts its sleep in CLOCK_MONOTONIC already."""
        return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000

    def boot_id(self) -> str:
        """The kernel's random id of this boot."""
        if sys.platform == "linux":
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        import subprocess  # it costs a fifth of a worker's start, and only macOS needs it

        asked = ["sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()


_BOOT_CLOCK: int = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC


def system_randomness(count: int) -> bytes:
    """Draw `count` bytes from the system's own source, which no fork repeats."""
    return os.urandom(count)
