"""Who may write: one process at a time, in turn, and for a bounded wait.

Owns `<db>-lock`, whose flock is held around every write transaction and which names its holder, and
`<db>-turn`, where those who wait for it queue. SQLite's own busy handler starves: beside a reader
that drains at full speed, a producer got one commit through in four seconds.
Must never: be held while anything but the disk is waited for. Called by: brokers that are files.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dibs.errors import BrokerBusy, BrokerUnavailable
from dibs.local.disk import beside, open_private
from dibs.local.fork import drop_in_child

SPIN_SECONDS = 0.001
"""How long the first in line asks again and again before it sleeps: the holder is at its commit
mostly, which is over by then, and to be woken takes two wakes (benchmarks: `contention`)."""


class WriteLock:
    """An flock that can be waited for with a time limit, and that nobody can take twice in a row.

    flock itself cannot time out, so a helper thread, made at the first contention, waits in it.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._lock = open_private(beside(path, "-lock"))
        try:
            self._turn = open_private(beside(path, "-turn"))
        except BaseException:
            os.close(self._lock)
            raise
        self._files: tuple[int, ...] = (self._lock, self._turn)
        self._mutex = threading.Lock()
        self._asked = threading.Semaphore(0)
        self._granted = threading.Semaphore(0)
        self._helper: threading.Thread | None = None
        self._wanted = self._waiting = self._closed = False
        self._signature = b"%-20d " % os.getpid()
        # The system's own call, and no method around it: a signal's handler may raise where a
        # method begins, and a lock that is never given up holds up everybody.
        self.release: Callable[[], object] = partial(fcntl.flock, self._lock, fcntl.LOCK_UN)
        """Gives the lock up, if it is held; to be called after an `acquire` that raised, too."""
        drop_in_child(self)

    def acquire(self, seconds: float) -> None:
        """Take the lock, or raise `BrokerBusy` that names its holder after `seconds`."""
        try:
            if not self._at_once(seconds) and not self._granted.acquire(timeout=seconds):
                with self._mutex:
                    # The helper may have been granted it between the time-out and here.
                    self._wanted = False
                    if not self._granted.acquire(blocking=False):
                        raise BrokerBusy(self.holder())
            self._sign()
        except BaseException:
            self._give_up()  # also for a Ctrl-C: it would be granted to nobody
            raise

    def _sign(self) -> None:
        # Of one width: what a longer line leaves behind would be read with a shorter one.
        line = b"%-24d\n" % time.monotonic_ns()
        try:
            os.pwrite(self._lock, self._signature + line, 0)
        except OSError:
            return  # the disk may be full

    def _give_up(self) -> None:
        with self._mutex:
            self._wanted = False
            self._granted.acquire(blocking=False)
            self.release()
            if not self._waiting and not self._closed:  # else the turn is the helper's
                fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files; a helper that still waits does so in its own time."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                self._asked.release()
                if not self._waiting:
                    self.drop()

    def drop(self) -> None:
        """Close the descriptors and nothing else: what a forked child does with its copies."""
        self._closed = True
        self.release = _nothing
        # Once only: a number that was closed may be another file's by now.
        files, self._files = self._files, ()
        for fd in files:
            os.close(fd)

    def _at_once(self, seconds: float) -> bool:
        with self._mutex:
            if self._closed:
                raise BrokerUnavailable(f"{self._name} was closed")
            if not self._waiting:
                if self._enter_soon(min(seconds, SPIN_SECONDS)):
                    return True
                if seconds <= 0:
                    fcntl.flock(self._turn, fcntl.LOCK_UN)
                    raise BrokerBusy(self.holder())
                if self._helper is None:
                    helper = threading.Thread(target=self._help, daemon=True)
                    helper.start()
                    self._helper = helper
                self._waiting = True
                self._asked.release()
            self._wanted = True
            return False

    # Two steps, because the kernel lets whoever comes back at once overtake those who wait. The
    # first of the queue keeps the turn until it has the lock, so the last holder finds the turn
    # taken, and waits like everybody.

    def _enter_soon(self, seconds: float) -> bool:
        """Enter if nobody stands before us and the lock gets free within `seconds`.

        Keeps the turn if it has it: what waits next goes on from there.
        """
        deadline = time.monotonic() + seconds
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            while not self._took_lock():
                if time.monotonic() >= deadline:
                    return False
                os.sched_yield()
        except BlockingIOError:
            return False
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        return True

    def _took_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _enter(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _help(self) -> None:
        while self._asked.acquire() and not self._closed:
            self._enter()
            with self._mutex:
                self._waiting = False
                if self._wanted:
                    self._wanted = False
                    self._granted.release()
                else:
                    self.release()
                if self._closed:
                    self.drop()
                    return

    def holder(self) -> str:
        """Say who holds it, and for how long."""
        words = os.pread(self._lock, 64, 0).split()
        pid, since = words if len(words) == 2 and all(map(bytes.isdigit, words)) else (b"?", b"")
        held = (time.monotonic_ns() - int(since or time.monotonic_ns())) / 1e9
        return (
            f"process {pid.decode()} has held {self._name} for {held:.1f} s"
            " (it may be stopped inside a commit)"
        )


def _nothing() -> None:
    """What there is to give up of a lock that was closed."""
