"""The host: everything inside a runner, whether a process of its own or threads of the pump's.

Owns: the links to the pump, the loop and the thread runner, and who gets which job.
Must never: decide on a job's fate, except that nobody is left to tell: when the pump is gone it
ends the process, because every lease of it is on its way to another worker.
Called by: `child.py` in a runner process, `inprocess.py` in the pump's own.
"""

import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping

from dibs.message import Lease, Release
from dibs.policy import unknown_delay_s
from dibs.runners.blackbox import BlackBox
from dibs.runners.contract import (
    RECEIVE_BYTES,
    Down,
    FrameBuffer,
    Quit,
    Slow,
    Start,
    StopJob,
    Withdraw,
    decode_down,
)
from dibs.runners.execute import SlowTasks
from dibs.runners.loop import LoopRunner
from dibs.runners.looplink import LoopLink
from dibs.runners.outbox import Outbox
from dibs.runners.slots import Item, Slots
from dibs.runners.threads import ThreadRunner
from dibs.task import AnyTask

NO_THREAD_MS = 1_000
"""How long a job stays away whose runner has no thread for it and is given none."""


class Host:
    """One runner's inside; `links` are the link and the loop's link.

    `abandoned` is called when the pump is gone.
    """

    def __init__(
        self,
        links: tuple[socket.socket, socket.socket],
        tasks: Mapping[str, AnyTask],
        box: BlackBox,
        slots: int,
        abandoned: Callable[[], None],
    ) -> None:
        self._link, awaited = links
        # One for all: to allocate as much for each frame takes longer than to read a small one.
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._tasks = tasks
        self._abandoned = abandoned
        self._outbox = Outbox(self._link, self._lost_pump)
        shared = Slots(box, slots, self._outbox, SlowTasks(self._tell))
        self._slots = shared
        self._loop_link = LoopLink(awaited, self._start)
        self._loop = LoopRunner(shared, self._loop_link)
        self._threads = ThreadRunner(shared)
        self._loop.share.rival, self._threads.share.rival = self._threads.share, self._loop.share
        self._threads.give_back = self._give_back_functions
        self._quitting = threading.Event()

    def run(self) -> None:
        """Run jobs until told to quit, the event loop in the calling thread."""
        self._outbox.start()
        threading.Thread(target=self._read, name="dibs-link", daemon=True).start()
        self._loop.run()
        self._threads.quit()
        self._outbox.close()

    def _tell(self, frame: Slow) -> None:
        self._outbox.tell(frame)

    def _lost_pump(self) -> None:
        if not self._quitting.is_set():
            self._abandoned()

    def _read(self) -> None:
        buffer = FrameBuffer()
        while data := self._receive():
            for body in buffer.feed(data):
                self._obey(decode_down(body))
        self._lost_pump()
        self._loop.quit()

    def _receive(self) -> memoryview:
        try:
            return self._received[: self._link.recv_into(self._received)]
        except OSError:
            return self._received[:0]

    def _obey(self, frame: Down) -> None:
        match frame:
            case Start(first, leases):
                self._start(first, leases)
            case Withdraw(keep, awaited):
                self._loop_link.read_until(awaited)
                self._withdraw(keep)
            case StopJob(serial, reason):
                self._loop.stop_job(serial, reason)
                self._threads.stop_job(serial, reason)
            case Quit():
                self._quitting.set()
                self._loop.quit()

    def _start(self, first: int, leases: list[Lease]) -> None:
        self._outbox.expect(len(leases))
        coroutines: list[Item] = []
        functions: list[Item] = []
        for serial, lease in enumerate(leases, first):
            task = self._tasks.get(lease.message.task)
            if task is None:
                # The pump asks before it sends, and knows what it was told by an earlier runner:
                # the code may have been replaced between the two.
                delay_s = unknown_delay_s(lease.fence - lease.attempt)
                self._outbox.put(serial, Release(delay_s * 1_000))
            elif task.info.kind == "async":
                coroutines.append((serial, lease, task))
            else:
                functions.append((serial, lease, task))
        if coroutines:
            self._loop.push(coroutines)
        if functions:
            self._threads.push(functions)

    def _give_back_functions(self) -> None:
        queue = self._threads.queue
        while queue:
            try:
                serial, _, _ = queue.pop()
            except IndexError:
                return
            self._outbox.put(serial, Release(NO_THREAD_MS))

    def _withdraw(self, keep: int) -> None:
        """Give back the youngest unstarted jobs of both queues until `keep` are left in all."""
        queues: tuple[deque[Item], deque[Item]] = (self._loop.queue, self._threads.queue)
        while sum(map(len, queues)) > keep:
            try:
                serial, _, _ = max(queues, key=len).pop()
            except IndexError:
                return  # started between the look and the pop
            self._outbox.put(serial, Release())
