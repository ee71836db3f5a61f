"""What pump and runner say to each other, and what a runner is to the pump.

Owns: the frames on the two socket pairs, the *link* and the *loop's link*, their encoding, and the
`Runner` and `Spawner` interfaces.
Must never: import user code, a broker or the pump.
Called by: the pump (sends `Down`, reads `Up`), the host in a runner process (the other way round).

A frame is four bytes of length, big-endian, and a MessagePack array. A job on the wire is named
by its *serial*, a number that the pump counts up for each job it hands out: integers are ten
times cheaper to send back than ids, and a serial is never reused, so a late answer cannot hit
another run of the same job.
"""

import signal
import struct
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from dibs.message import Lease, Outcome, TaskInfo

StopReason = Literal["timeout", "lease_lost"]

THE_PUMPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that reach runners too and are the pump's to answer; blocked in a runner from its birth
until it has handlers."""

RECEIVE_BYTES = 1 << 18
"""How much is read at once."""

_LENGTH = struct.Struct(">I")


class Start(Struct, frozen=True, gc=False, array_like=True, tag="start"):
    """Run these jobs, of either kind; their serials count up from `first`."""

    first: int
    leases: list[Lease]


class Await(Struct, frozen=True, gc=False, array_like=True, tag="await"):
    """Run these coroutines; their serials count up from `first`. It goes over the loop's link."""

    first: int
    leases: list[Lease]


class Withdraw(Struct, frozen=True, gc=False, array_like=True, tag="withdraw"):
    """Give back all jobs that have not started but `keep`, each by a `Release`.

    `awaited` is how many jobs were sent over the loop's link before it: what of them is still on
    its way has not started either.
    """

    keep: int
    awaited: int


class StopJob(Struct, frozen=True, gc=False, array_like=True, tag="stop"):
    """Tell the job to end: a coroutine is cancelled, a thread sees it in `dibs.context()`."""

    serial: int
    reason: StopReason


class Quit(Struct, frozen=True, gc=False, array_like=True, tag="quit"):
    """Exit: nothing runs any more."""


Down = Start | Await | Withdraw | StopJob | Quit


class Hello(Struct, frozen=True, gc=False, array_like=True, tag="hello"):
    """The app is imported: where its broker is, which tasks it has, which files it came from."""

    url: str
    tasks: list[TaskInfo]
    files: list[str]


class ImportFailed(Struct, frozen=True, gc=False, array_like=True, tag="import_failed"):
    """The app could not be imported; `text` is for the user."""

    text: str


class Done(Struct, frozen=True, gc=False, array_like=True, tag="done"):
    """Outcomes of jobs: serials of plain acknowledgements, and all others.

    `took_ns` is how long the runner had work while it made them: what it waited for the pump does
    not count, so that count / `took_ns` is what it is able to do.
    """

    acked: list[int]
    others: list[tuple[int, Outcome]]
    took_ns: int


class Slow(Struct, frozen=True, gc=False, array_like=True, tag="slow"):
    """A run of `task` took `ran_seconds`, near the limit of `option`: each runner tells it once."""

    task: str
    option: str
    ran_seconds: float
    limit_seconds: float


Up = Hello | ImportFailed | Done | Slow

_encoder = msgspec.msgpack.Encoder()
_down = msgspec.msgpack.Decoder(Down)
_up = msgspec.msgpack.Decoder(Up)


def encode(frame: Down | Up) -> bytes:
    """Return `frame` with its length before it."""
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


def decode_down(body: bytes | memoryview) -> Down:
    """Return the frame that the pump sent."""
    frame: Down = _down.decode(body)
    return frame


def decode_up(body: bytes | memoryview) -> Up:
    """Return the frame that a runner sent."""
    frame: Up = _up.decode(body)
    return frame


class FrameBuffer:
    """Cuts a stream of bytes into frame bodies."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Add `data`; yield the bodies that are whole by now."""
        buffer = self._bytes
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            yield bytes(memoryview(buffer)[at + _LENGTH.size : end])
            at = end
        if at:
            del buffer[:at]


class Runner(Protocol):
    """A runner as the pump sees it: slots on the other side of two socket pairs.

    `pid` is the process that user code runs in. `slots` is how many jobs run at a time.
    """

    pid: int
    slots: int

    def filenos(self) -> Sequence[int]:
        """Return the descriptors to wait on; any of them readable: call `receive`."""
        ...

    def unsent(self) -> Sequence[int]:
        """Return where bytes wait for room; wait for one to be writable, then call `flush`."""
        ...

    def send(self, frame: Down) -> None:
        """Hand over a frame; never blocks."""
        ...

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        ...

    def receive(self) -> list[Up]:
        """Return the frames that have arrived; never blocks."""
        ...

    def death(self) -> str | None:
        """Say how the runner died, or None while it lives. Call `receive` once more after it."""
        ...

    def running(self) -> dict[int, float]:
        """Return what the slots are at: serial -> start, in seconds of the monotonic clock.

        It is read from memory that outlives the process: true also after a crash.
        """
        ...

    def last(self) -> set[int]:
        """Return the serials that the slots were at last, still running or not.

        One that is done but was not heard of ended with its process, and may have ended it: that
        is a crash, or a job that always does so would come back for ever.
        """
        ...

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        ...

    def close(self) -> None:
        """Give up its descriptors."""
        ...


class Spawner(Protocol):
    """Starts runners."""

    def __call__(self, slots: int) -> Runner:
        """Start a runner of `slots` slots; it says `Hello` or `ImportFailed` in its own time."""
        ...
