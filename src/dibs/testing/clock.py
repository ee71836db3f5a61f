"""A clock that moves only when a test says so.

Owns: virtual time for brokers, and the fault of a clock that cannot be read.
Must never: read a real clock.
Called by: the conformance suite, the state machine, and anyone's tests.
"""


class ClockFault(Exception):
    """The clock was told to fail at this reading."""


class ManualClock:
    """`dibs.clock.Clock` by hand. Wall and boot time can be moved apart, as they are by NTP.

    `fail_at(n)` makes the n-th reading from now raise `ClockFault`. A call of a broker that is cut
    short there must leave nothing half done, so this finds moves that take two steps.
    """

    def __init__(self, wall_ms: int = 1_800_000_000_000, boot_ms: int = 5_000_000) -> None:
        self._wall_ms = wall_ms
        self._boot_ms = boot_ms
        self._boots = 1
        self._readings_left: int | None = None

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as far as the test says."""
        self._read()
        return self._wall_ms

    def boot_ms(self) -> int:
        """Milliseconds since the machine would have started."""
        self._read()
        return self._boot_ms

    def boot_id(self) -> str:
        """A name for this run of the imagined machine."""
        return f"boot-{self._boots}"

    def monotonic(self) -> float:
        """Seconds on the boot clock."""
        return self._boot_ms / 1000

    def advance(self, ms: int) -> None:
        """Let time pass, on every clock."""
        self._wall_ms += ms
        self._boot_ms += ms

    def step_wall(self, ms: int) -> None:
        """Set the wall clock forward or back; no time passes."""
        self._wall_ms += ms

    def reboot(self) -> None:
        """Start the machine anew: another boot id, and a boot clock near zero."""
        self._boots += 1
        self._boot_ms = 1_000

    def fail_at(self, reading: int | None) -> None:
        """Raise `ClockFault` once, at the `reading`-th reading from now; None: never."""
        self._readings_left = reading

    def _read(self) -> None:
        if self._readings_left is not None:
            self._readings_left -= 1
            if self._readings_left == 0:
                self._readings_left = None
                raise ClockFault
