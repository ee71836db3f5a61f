"""The thread runner: runs `def` tasks in threads, each job in a fresh context.

Owns: its threads, started when they are first needed, never more than there are slots.
Must never: talk to the broker. A thread that hangs cannot be ended: the pump replaces the process.
Called by: the host from its link thread (`push`, `stop_job`), the loop's share (`nudge`).
"""

import threading
from collections.abc import Callable
from contextvars import copy_context

from dibs.message import Outcome
from dibs.runners.contract import StopReason
from dibs.runners.execute import failed, returned
from dibs.runners.slots import Item, Share, Slot, Slots


class ThreadRunner:
    """Runs plain functions."""

    def __init__(self, slots: Slots) -> None:
        self.share = Share(slots, self.nudge)
        self.queue = self.share.queue
        self.give_back: Callable[[], None] = lambda: None
        """Gives back what is queued here: the system starts no thread, and there is none yet."""
        self._slots = slots
        self._gates: list[threading.Lock] = []
        """One closed gate per idle thread."""
        self._threads = 0
        self._waking = False
        self._pristine = copy_context()
        self._quit = False

    def push(self, items: list[Item]) -> None:
        """Queue jobs. Any thread may call."""
        self.queue.extend(items)
        self.nudge()

    def nudge(self) -> None:
        """Make one thread look at the queue; it wakes the next if there is more than it takes."""
        self._waking = True
        try:
            self._gates.pop().release()
        except IndexError:
            if self._threads < len(self._slots.all):
                self._start_thread()

    def _start_thread(self) -> None:
        self._threads += 1
        try:
            threading.Thread(target=self._work, name="dibs-job", daemon=True).start()
        except RuntimeError:
            # Those that there are go on with what is queued; it takes longer, and nothing is stuck.
            self._threads -= 1
            if not self._threads:
                self.give_back()
                self.share.rest()

    def quit(self) -> None:
        """End the idle threads."""
        self._quit = True
        while self._gates:
            self._gates.pop().release()

    def stop_job(self, serial: int, reason: StopReason) -> None:
        """Tell a running job to end; it sees that in `dibs.context()`."""
        slot = self._slots.find(serial)
        if slot is not None and slot.job is not None and slot.serial == serial:
            slot.job.stop_reason = reason

    def _work(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while not self._quit:
            self._waking = False
            slot = self.share.take()
            if slot is not None:
                self._run_jobs(slot)
                self.share.put_back(slot)
                continue
            self.share.rest()
            self._gates.append(gate)
            # A job may have come, or a slot, after the look and before the gate was hung out: then
            # nobody will open it, so look again. Whoever takes the gate out of the list opens it.
            if self.share.can_start() and self._take_back(gate):
                continue
            gate.acquire()

    def _take_back(self, gate: threading.Lock) -> bool:
        try:
            self._gates.remove(gate)
        except ValueError:
            return False
        return True

    def _run_jobs(self, slot: Slot) -> None:
        """Run jobs in `slot` while there are any and the loop does not ask for it."""
        queue, pristine = self.queue, self._pristine
        while queue:
            try:
                item = queue.popleft()
            except IndexError:
                return  # another thread took it between the look and the pop
            # One waking thread at a time: the others would only fight for the interpreter's lock.
            if queue and not self._waking:
                self.nudge()
            pristine.copy().run(self._run_job, slot, item)
            if self.share.rival.is_short():
                return

    @staticmethod
    def _run_job(slot: Slot, item: Item) -> None:
        serial, lease, task = item
        job = slot.enter(serial, lease)
        outcome: Outcome | None
        try:
            args, kwargs = task.codec.decode(lease.message.args)
            outcome = returned(task, task.function(*args, **kwargs), job)
        except BaseException as exc:
            outcome = failed(task, job, exc)
        slot.leave(item, outcome)
