"""A worker's pump that tells when it settled what: `python -m benchmarks.pump JSON`.

It is the worker as `dibs worker` runs it (the service, runner processes, default settings) with an
observer that counts instead of a terminal; it prints what it saw as one line of JSON.
Must never: import the tasks: a pump does not either. Called by `workers`.

With BENCH_PROFILE set to a file, the pump's thread is profiled into it.
"""

import cProfile
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec
from msgspec import Struct

from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.events import BrokerTrouble, Event, JobFailed, Settled
from dibs.message import Nack
from dibs.runners.processes import spawner
from dibs.worker.service import Plan, Service, calm_collector


class Order(Struct, frozen=True):
    """What to run, and when to stop: when drained, after so many jobs, or when stdin ends.

    `path` is a queue file; with a `url` the queues are there, and the path is where jobs note.
    """

    path: str
    slots: int = 50
    processes: int | None = 1
    drain: bool = True
    stop_after: int = 0
    url: str = ""

    @property
    def place(self) -> str:
        """The URL of the queues."""
        return self.url or f"sqlite:///{self.path}"


class Seen(Struct):
    """What was seen, in seconds of the monotonic clock.

    `first` and `last` are the first and the last settlement, `before` how many jobs the first one
    settled: what came after it is what the time between the two is for. `crashed` has an entry per
    crash that was charged: the job's id in hex.
    """

    first: float = 0.0
    last: float = 0.0
    before: int = 0
    done: int = 0
    settlements: int = 0
    longest_gap: float = 0.0
    troubles: list[str] = []
    crashed: list[str] = []
    dead: int = 0
    released: int = 0
    cpu_seconds: float = 0.0
    runner_cpu_seconds: float = 0.0
    longest_call: float = 0.0
    longest_verb: str = ""

    @property
    def rate(self) -> float:
        """Jobs per second from the first to the last settlement."""
        return (self.done - self.before) / (self.last - self.first)


class Watch:
    """The observer."""

    def __init__(self, stop_after: int) -> None:
        self.seen = Seen()
        self.service: Service | None = None
        self._stop_after = stop_after

    def __call__(self, event: Event) -> None:
        seen = self.seen
        match event:
            case Settled(done=done, dead=dead, released=released):
                now = time.monotonic()
                seen.dead += dead
                seen.released += released
                if not done:
                    return
                if not seen.first:
                    seen.first, seen.before = now, done
                else:
                    seen.longest_gap = max(seen.longest_gap, now - seen.last)
                seen.last = now
                seen.done += done
                seen.settlements += 1
                if self.service and self._stop_after and seen.done >= self._stop_after:
                    self._stop_after = 0
                    self.service.stop()
            case JobFailed(lease, _, outcome) if isinstance(outcome, Nack):
                if outcome.charge == "crash":
                    seen.crashed.append(lease.message.id.hex())
            case BrokerTrouble(_, text):
                seen.troubles.append(text)
            case _:
                pass


def main() -> None:
    """Run the worker, then print what was seen."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    watch = Watch(order.stop_after)
    plan = Plan(concurrency=order.slots, processes=order.processes, drain=order.drain)
    service = watch.service = Service(spawner("benchmarks.apps:app"), plan, watch)
    calm_collector()
    service.start()
    clock = SystemClock()
    broker = open_broker(order.place, clock=clock, worker_id=os.urandom(8))
    for verb in ("claim", "settle", "extend"):
        setattr(broker, verb, _timed(getattr(broker, verb), verb, watch.seen))
    hello = service.wait_for_app()
    if not order.drain and not order.stop_after:
        threading.Thread(target=_stop_at_end_of_input, args=(service,), daemon=True).start()
    profile = cProfile.Profile() if "BENCH_PROFILE" in os.environ else None
    cpu = time.thread_time()
    with profile or nullcontext():
        service.run(broker, hello)
    watch.seen.cpu_seconds = time.thread_time() - cpu
    if profile:
        profile.dump_stats(os.environ["BENCH_PROFILE"])
    service.close()
    broker.close()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch.seen.runner_cpu_seconds = spent.ru_utime + spent.ru_stime
    print(msgspec.json.encode(watch.seen).decode(), flush=True)


def _timed(call: Callable[..., Any], verb: str, seen: Seen) -> Callable[..., Any]:
    """Return `call`, noting the longest; it costs a microsecond for hundreds of jobs."""

    def timed(*arguments: object) -> Any:
        before = time.monotonic()
        try:
            return call(*arguments)
        finally:
            took = time.monotonic() - before
            if took > seen.longest_call:
                seen.longest_call, seen.longest_verb = took, verb

    return timed


def _stop_at_end_of_input(service: Service) -> None:
    sys.stdin.read()
    service.stop()


if __name__ == "__main__":
    main()
