"""The worker's terminal: an observer that tells a person what happens, and not one word more.

Owns: the lines of a running worker: failures with their tracebacks, troubles, a summary every ten
seconds while jobs run or end; and that no storm of events becomes a flood of lines.
Must never: print a line per job, let a task's text steer the terminal, or read a clock of its own.
Called by: the pump, with every event, and `tick`, from a thread that runs only while there is work.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable

from dibs import events
from dibs.cli.lines import Write
from dibs.clock import Clock
from dibs.text import duration
from dibs.worker.sentences import COUNTED, Told, describe, kind, traceback_of

SUMMARY_SECONDS = 10.0
RATED_SECONDS = 0.1
"""Over a shorter time a rate says nothing."""

SHOWN_A_SECOND = 5
"""How many events of one type are told in full in a second, and the first of each kind; the others
are counted."""

MOST_KINDS = 50
"""How many kinds are told apart in a second, so that not even a storm of kinds is a flood."""


class Valve:
    """Lets the first few of a second through, and the first of each kind; counts the others."""

    def __init__(self) -> None:
        self._second = -1.0
        self._shown = 0
        self._kinds: set[str] = set()
        self.held_back: Counter[str] = Counter()

    def lets(self, what: str, now: float) -> bool:
        """Whether to tell one more event in full."""
        if now >= self._second + 1:
            self._second, self._shown = now, 0
            self._kinds.clear()
        is_first = what not in self._kinds and len(self._kinds) < MOST_KINDS
        if is_first:
            self._kinds.add(what)
        self._shown += 1
        if is_first or self._shown <= SHOWN_A_SECOND:
            return True
        self.held_back[what if what in self._kinds else "others"] += 1
        return False

    def is_over(self, now: float) -> bool:
        """Whether the second is over in which something was held back."""
        return bool(self.held_back) and now >= self._second + 1


class Terminal:
    """Prints events as lines through `write`; `busy` is set while a `tick` may have work."""

    def __init__(self, write: Write, clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._valves: dict[type, Valve] = {}
        self._total: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._told = dict(self._total)
        self._since: float | None = None
        self._began = clock.monotonic()
        self._held = 0
        self.busy = threading.Event()

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        with self._lock:
            now = self._clock.monotonic()
            self._look(now)
            match event:
                case events.Settled():
                    self._count(event, now)
                case events.Holding(jobs):
                    self._hold(jobs, now)
                case _:
                    self._tell(event, now)

    def tick(self) -> None:
        """Print what has become due."""
        with self._lock:
            self._look(self._clock.monotonic())

    def finish(self, left: Iterable[str] = ()) -> None:
        """Print what is left undone, and the last summary, over the whole life of the worker."""
        with self._lock:
            self._release_all()
            for text in left:
                self._line(text)
            now = self._clock.monotonic()
            if not any(self._total.values()):
                self._line("stopped; no job was settled")
            else:
                took = now - self._began
                self._line(f"stopped; in all {_summary(self._total, took)} in {duration(took)}")

    # Counting

    def _count(self, event: events.Settled, now: float) -> None:
        for name in COUNTED:
            self._total[name] += getattr(event, name)
        self._begin(now)

    def _hold(self, jobs: int, now: float) -> None:
        self._held = jobs
        if jobs:
            self._begin(now)

    def _begin(self, now: float) -> None:
        """Have a summary in ten seconds, unless one is due sooner."""
        if self._since is None:
            self._since = now
            self.busy.set()

    def _look(self, now: float) -> None:
        for valve in self._valves.values():
            if valve.is_over(now):
                self._release(valve)
        if self._since is not None and now >= self._since + SUMMARY_SECONDS:
            self._summarise(now - self._since)
            self._since = now if self._held else None
        if self._since is None and not any(v.held_back for v in self._valves.values()):
            self.busy.clear()

    def _summarise(self, seconds: float) -> None:
        new = {name: self._total[name] - self._told[name] for name in COUNTED}
        self._told = dict(self._total)
        if any(new.values()) or self._held:
            held = f", {self._held:,} in flight" if self._held else ""
            self._line(f"last {duration(seconds)}: {_summary(new, seconds)}{held}")

    def _release_all(self) -> None:
        for valve in self._valves.values():
            self._release(valve)

    def _release(self, valve: Valve) -> None:
        if valve.held_back:
            kinds = ", ".join(
                f"{count:,} × {what}" for what, count in valve.held_back.most_common(5)
            )
            more = len(valve.held_back) - 5
            self._line(f"not shown: {kinds}{f' and {more:,} kinds more' if more > 0 else ''}")
            valve.held_back.clear()

    # Telling

    def _tell(self, event: Told, now: float) -> None:
        valve = self._valves.setdefault(type(event), Valve())
        if valve.lets(kind(event), now):
            self._line(describe(event))
            if isinstance(event, events.JobFailed):
                self._write(traceback_of(event))
        else:
            self.busy.set()

    def _line(self, text: str) -> None:
        at = time.strftime("%H:%M:%S", time.localtime(self._clock.wall_ms() / 1_000))
        self._write(f"{at} {text}\n")


def _summary(counts: dict[str, int], seconds: float) -> str:
    """Return the counts as text, those of nothing left out, and the rate of what was done."""
    per_second = counts["done"] / seconds if seconds >= RATED_SECONDS else 0
    rate = f" ({per_second:,.0f} jobs/s)" if per_second >= 1 else ""
    done = f"{counts['done']:,} done{rate}"
    others = [
        f"{counts[name]:,} {word}"
        for name, word in COUNTED.items()
        if name != "done" and counts[name]
    ]
    return ", ".join([done, *others])
