"""200 tasks that each enqueue 100 others one by one, while the pump drains both."""

from benchmarks.harness import Context, Row, at_most, folder, plain
from benchmarks.pump import Order
from benchmarks.store import filled
from benchmarks.workers import Log, drained

TASKS = 200
EACH = 100
KINDS = {"fan_out": "`def`", "fan_out_async": "`async def`"}


def measure(context: Context) -> list[Row]:
    """Look at the longest call on both sides: of a task's enqueue, and of the pump's broker."""
    return [row for task, kind in KINDS.items() for row in _measure(context, task, kind)]


def _measure(context: Context, task: str, kind: str) -> list[Row]:
    enqueues: list[float] = []
    pumps: list[float] = []
    errors: list[float] = []
    said: set[str] = set()
    rates: list[float] = []
    for _ in range(context.runs):
        with folder() as place:
            path = filled(place / "queue.db", task, TASKS, _arguments)
            log = Log(path)
            seen = drained(Order(str(path), processes=None))
            lines = log.close()
        if len(lines) != TASKS or seen.done != TASKS * (EACH + 1):
            raise RuntimeError(f"{len(lines)} tasks and {seen.done:,} jobs were done")
        enqueues.append(max(longest for _, longest in lines) / 1e6)
        pumps.append(seen.longest_call * 1_000)
        errors.append(float(sum(count for count, _ in lines) + len(seen.troubles)))
        said |= {f"{seen.longest_verb} was the pump's longest", *seen.troubles}
        rates.append(seen.rate)
    note = (
        f"{TASKS} {kind} tasks, {EACH} each; {max(rates):,.0f} jobs/s; worst {max(enqueues):.0f} ms"
    )
    return [
        plain(f"200 {kind} x 100 enqueues: longest call", "ms", enqueues, at_most(50), note),
        plain("  longest call of the pump", "ms", pumps, at_most(50), "; ".join(sorted(said)[:3])),
        plain("  busy errors", "", [max(errors)], at_most(0)),
    ]


def _arguments(_: int) -> bytes:
    return b'{"count":%d}' % EACH
