"""A runner in the pump's own process: the same host, in threads.

Owns: the host's thread.
Must never: be the default: here a blocked interpreter stops the pump and its heartbeats too. It
is for tests, for debugging, and for a small consumer inside a web application.
Called by: the worker's crew, through `in_process_spawner`.
"""

import os
import threading
from collections.abc import Mapping, Sequence

from dibs.runners.blackbox import BlackBox
from dibs.runners.contract import Down, Hello, Spawner, Up, encode
from dibs.runners.host import Host
from dibs.runners.link import Links
from dibs.task import AnyTask


def in_process_spawner(url: str, tasks: Mapping[str, AnyTask]) -> Spawner:
    """Return what starts runners made of threads for the tasks of an app that is imported here.

    Raises:
        TaskDefinitionError: an annotation cannot be resolved, or its type has no JSON form.
    """
    for task in tasks.values():
        task.resolve()
    return lambda slots: InProcessRunner(url, tasks, slots)


class InProcessRunner:
    """One host in threads of this process; it cannot be killed, and dies only when told to quit."""

    def __init__(self, url: str, tasks: Mapping[str, AnyTask], slots: int) -> None:
        self.slots = slots
        self.pid = os.getpid()
        self._links = Links()
        self._box = BlackBox(-1, slots)
        self._killed = False
        self._links.theirs[0].sendall(
            encode(Hello(url, [task.info for task in tasks.values()], []))
        )
        host = Host(self._links.theirs, tasks, self._box, slots, abandoned=lambda: None)
        self._thread = threading.Thread(
            target=self._run, args=(host,), name="dibs-loop", daemon=True
        )
        self._thread.start()

    def _run(self, host: Host) -> None:
        # They are this thread's to close: it may not even have begun when `close` is called.
        try:
            host.run()
        finally:
            for end in self._links.theirs:
                end.close()  # the pump waits for the end of the link

    def filenos(self) -> Sequence[int]:
        """Return the link, while there is one."""
        return [] if self._killed else [self._links.fileno()]

    def unsent(self) -> Sequence[int]:
        """Return where frames wait for room."""
        return self._links.unsent()

    def send(self, frame: Down) -> None:
        """Hand over a frame."""
        self._links.send(frame)

    def flush(self) -> None:
        """Write what waits."""
        self._links.flush()

    def receive(self) -> list[Up]:
        """Return the frames that have arrived."""
        return self._links.receive()

    def death(self) -> str | None:
        """Say that it has quit or was cut off, or None."""
        return None if self._thread.is_alive() and not self._killed else "quit"

    def running(self) -> dict[int, float]:
        """Return what the slots are at."""
        return self._box.running()

    def last(self) -> set[int]:
        """Return what the slots were at last."""
        return self._box.last()

    def kill(self) -> None:
        """Cut the link: a thread cannot be killed, so what runs is left to itself."""
        self._killed = True
        self._links.close()

    def close(self) -> None:
        """Give up the descriptors."""
        self._links.close()
