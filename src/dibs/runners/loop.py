"""The loop runner: runs `async def` tasks on one event loop.

Owns: the event loop and its movers. A mover is one long-lived asyncio task that runs one job after
the other in a slot: a job that never waits costs no task, no future and no trip through the loop.
Must never: talk to the broker, or share its thread with anything but user code and the reading of
what is to run.
Called by: the host (`push`, from its link thread or the loop's own; `stop_job`), the threads' share
of the slots (`nudge`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from threading import get_ident
from time import monotonic_ns
from typing import cast

from dibs.runners.contract import StopReason
from dibs.runners.execute import failed, returned
from dibs.runners.looplink import LoopLink
from dibs.runners.slots import Item, Share, Slot, Slots
from dibs.running import current

SLICE_NS = 5_000_000
"""A mover gives way to the loop's other work after this long, however many jobs wait."""


class LoopRunner:
    """Runs coroutines; `run` is its thread's whole life."""

    def __init__(self, slots: Slots, link: LoopLink) -> None:
        self.share = Share(slots, self.nudge)
        self.queue = self.share.queue
        self._slots = slots
        self._link = link
        self._thread = 0
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._over = self._loop.create_future()
        self._idle: list[asyncio.Future[None]] = []
        self._movers: set[asyncio.Task[None]] = set()
        self._waking = False
        self._pristine = copy_context()
        self._pristine.run(current.set, None)

    def run(self) -> None:
        """Run the loop until `quit`; what is left on it then is cancelled."""
        self._thread = get_ident()
        with self._runner:
            self._loop.add_reader(self._link, self._read)
            self._runner.run(self._wait())

    def _read(self) -> None:
        if not self._link.read():
            self._loop.remove_reader(self._link)

    async def _wait(self) -> None:
        await self._over

    def quit(self) -> None:
        """Make `run` return. Any thread may call."""
        self._soon(self._end)

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def push(self, items: list[Item]) -> None:
        """Queue jobs. Any thread may call."""
        self.queue.extend(items)
        if get_ident() == self._thread:
            self._wake()
        else:
            self.nudge()

    def nudge(self) -> None:
        """Make idle movers look at the queue. Any thread may call."""
        self._soon(self._wake)

    def stop_job(self, serial: int, reason: StopReason) -> None:
        """Cancel a running job. Any thread may call."""
        self._soon(lambda: self._cancel(serial, reason))

    def _soon(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the loop is closed, and everything that ran on it has ended

    def _wake(self) -> None:
        """Wake two movers; each wakes two more while jobs wait: few for few, many fast for many."""
        self._waking = True
        for _ in range(2):
            if self._idle:
                idle = self._idle.pop()
                if not idle.done():
                    idle.set_result(None)
            elif len(self._movers) < len(self._slots.all):
                self._new_mover()

    def _new_mover(self) -> None:
        context = self._pristine.copy()
        mover = self._loop.create_task(self._move(), name="dibs-job", context=context)
        self._movers.add(mover)
        mover.add_done_callback(self._retire)

    def _retire(self, mover: asyncio.Task[None]) -> None:
        self._movers.discard(mover)
        if self.queue:
            self._wake()

    def _cancel(self, serial: int, reason: StopReason) -> None:
        slot = self._slots.find(serial)
        if slot is not None and slot.job is not None and slot.owner is not None:
            slot.job.stop_reason = reason
            slot.owner.cancel()

    async def _move(self) -> None:
        fit = True
        while fit:
            self._waking = False
            slot = self.share.take()
            if slot is None:
                self.share.rest()
                idle = self._loop.create_future()
                self._idle.append(idle)
                await idle
                continue
            try:
                fit = await self._run_jobs(slot)
            finally:
                slot.owner = None
                self.share.put_back(slot)

    async def _run_jobs(self, slot: Slot) -> bool:
        """Run jobs in `slot` while it is ours; False if this mover must not run another.

        It must not when a job left something behind in it: a context variable, a cancellation.
        """
        me = slot.owner = cast("asyncio.Task[None]", asyncio.current_task())
        queue = self.queue
        slice_start = monotonic_ns()
        while queue:
            try:
                item = queue.popleft()
            except IndexError:
                break  # withdrawn by the link thread between the look and the pop
            if queue and not self._waking:
                self._wake()
            serial, lease, task = item
            job = slot.enter(serial, lease)
            try:
                args, kwargs = task.codec.decode(lease.message.args)
                coroutine = cast("Awaitable[object]", task.function(*args, **kwargs))
                outcome = returned(task, await coroutine, job)
            except BaseException as exc:
                if isinstance(exc, GeneratorExit) and self._over.done():
                    raise  # the loop is being torn down around this job
                outcome = failed(task, job, exc)
            now = slot.leave(item, outcome)
            current.set(None)
            if me.cancelling() or copy_context() != self._pristine:
                return False
            if self.share.rival.is_short():
                return True
            if now - slice_start > SLICE_NS:
                await asyncio.sleep(0)
                slice_start = monotonic_ns()
        return True
