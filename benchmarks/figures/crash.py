"""A job that reads address 0 among 1,000 healthy ones, on two runner processes.

A healthy job notes its start and its end; one that has started in a process that died and has no
end there was running when it died. How long until it starts again is counted from the moment
before the faulty read.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Context, Row, at_most, folder, percentile, plain
from benchmarks.pump import Order, Seen
from benchmarks.store import filled, opened
from benchmarks.workers import Log, drained

HEALTHY = 1_000
MAX_CRASHES = 3
POISON = -1


def measure(context: Context) -> list[Row]:
    """Run the whole some times, over 100 redeliveries in all if there is time."""
    again: list[float] = []
    wrong: list[str] = []
    for _ in range(2 if context.quick else 2 * context.runs):
        with folder() as place:
            path = filled(place / "queue.db", "healthy", HEALTHY // 2, _numbered(0))
            filled(path, "poison", 1)
            filled(path, "healthy", HEALTHY // 2, _numbered(HEALTHY // 2))
            log = Log(path)
            seen = drained(Order(str(path), processes=2))
            lines = log.close()
            wrong += _wrong(path, seen, lines)
            again += _redeliveries(lines)
    note = f"{len(again)} redeliveries, longest {max(again, default=0):.0f} ms; " + "; ".join(wrong)
    late = percentile(again, 0.99) if again else float("inf")
    return [
        plain("segfault: death to redelivery, p99", "ms", [late], at_most(250), note),
        plain("  runs that broke a rule", "", [float(len(wrong))], at_most(0)),
    ]


def _numbered(first: int) -> Callable[[int], bytes]:
    return lambda number: b'{"number":%d}' % (first + number)


def _wrong(path: Path, seen: Seen, lines: list[list[int]]) -> list[str]:
    """Say which rules this run broke."""
    broker = opened(path)
    dead = broker.inspector().dead()
    broker.close()
    wrong = []
    if [(one.message.task, one.crashes, one.reason) for one in dead] != [
        ("poison", MAX_CRASHES, "max_crashes")
    ]:
        wrong.append(f"dead letters: {[(d.message.task, d.crashes, d.reason) for d in dead]}")
    if seen.done != HEALTHY:
        wrong.append(f"{seen.done} done")
    ended = {number for number, _, _, over in lines if over}
    if len(ended) != HEALTHY:
        wrong.append(f"{len(ended)} ended")
    charged = Counter(seen.crashed)
    poison = {one.message.id.hex() for one in dead}
    twice = [job for job, crashes in charged.items() if crashes > 1 and job not in poison]
    if twice:
        wrong.append(f"{len(twice)} healthy jobs were charged twice")
    return wrong


def _redeliveries(lines: list[list[int]]) -> list[float]:
    """Return the milliseconds from each death to the next start of what it interrupted."""
    found = []
    ended = {(number, process) for number, process, _, over in lines if over}
    starts = [(number, process, at) for number, process, at, over in lines if not over]
    for _, process, death in (start for start in starts if start[0] == POISON):
        for number, where, _ in starts:
            if where == process and number != POISON and (number, where) not in ended:
                later = [at for n, _, at in starts if n == number and at > death]
                found += [(at - death) / 1e6 for at in [min(later, default=0)] if at]
    return found
