"""`python -m benchmarks [--quick] [--runs N] [--save FILE] [name ...]`.

Owns the list of figures and the exit code: 0 when every bar that was looked at is met, 1 otherwise.
Called by `make bench`.
"""

import argparse
import compileall
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import cast

import dibs
from benchmarks.harness import RESULTS, Context, Figure, Row, heading, line, machine, save

FIGURES = {
    "drain": "no-op jobs through one runner process, `async def` and `def`",
    "results": "jobs whose results are kept, and from the end of one to who waits for it",
    "enqueue_many": "100,000 jobs in one call",
    "enqueue": "one by one, each durable on return",
    "contention": "8 producers beside a worker that drains",
    "fan_out": "200 tasks that each enqueue 100 others",
    "latency": "from enqueue in one process to the start in an idle worker",
    "aenqueue": "from 1,000 coroutines",
    "idle": "what an idle worker costs",
    "start": "process start to first job done",
    "memory": "of pump and runner; of the file, given back",
    "backlog": "1,000,000 waiting against 100,000",
    "sleeping": "100,000 jobs of 20 ms in 500 slots",
    "crash": "a segfaulting job among 1,000 healthy ones",
    "rabbitmq": "RabbitMQ: drained, enqueued in one call, and from enqueue to start",
    "redis": "on Redis: jobs drained, enqueued, and from enqueue to start",
    "postgres": "on PostgreSQL: jobs drained, enqueued, from enqueue to start, a long backlog",
    "growth": "PostgreSQL's tables over 10,000,000 jobs",
    "sqs": "on a local server that speaks SQS: the same",
}


def main() -> int:
    """Run the figures that were asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog=_listed())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "names", nargs="*", metavar="name", help="the figures to run; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs, one run of each")
    parser.add_argument("--runs", type=int, help="runs of each side (3; 1 with --quick)")
    parser.add_argument("--save", type=Path, default=RESULTS / "latest.json", help="the JSON file")
    options = parser.parse_args()
    if unknown := set(options.names) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}; see --help")
    context = Context(
        quick=options.quick,
        runs=options.runs or (1 if options.quick else 3),
        scale=0.1 if options.quick else 1.0,
    )
    _compile()
    about = machine() | {"when": datetime.now(UTC).isoformat(timespec="seconds")}
    about |= {"quick": context.quick, "runs": context.runs}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(heading())
    rows, failed = _run(options.names or list(FIGURES), context)
    save(options.save, about, rows)
    missed = [row.figure for several in rows.values() for row in several if row.met is False]
    print(f"\n{len(missed)} missed, {len(failed)} could not be run; saved as {options.save.name}")
    return 1 if missed or failed else 0


def _compile() -> None:
    """Compile dibs, as an installation does: the interpreter itself may be forbidden to keep it.

    Else each process start, and the first `enqueue` of each process, would be that of a compiler.
    """
    for package in (Path(dibs.__file__).parent, Path(__file__).parent):
        compileall.compile_dir(package, quiet=2)


def _run(names: list[str], context: Context) -> tuple[dict[str, list[Row]], list[str]]:
    rows: dict[str, list[Row]] = {}
    failed: list[str] = []
    for name in names:
        started = time.monotonic()
        try:
            figure = cast("Figure", import_module(f"benchmarks.figures.{name}").measure)
            rows[name] = figure(context)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        for row in rows[name]:
            print(line(row))
        print(f"    ({name}: {time.monotonic() - started:.0f} s)", flush=True)
    return rows, failed


def _listed() -> str:
    return "figures:\n" + "\n".join(f"  {name:<14}{what}" for name, what in FIGURES.items())


if __name__ == "__main__":
    sys.exit(main())
