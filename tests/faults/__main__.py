"""`python -m tests.faults [broker ...] [--scenario NAME ...] [--short]`: the faults, and the table.

Owns: the choice of runs, and the exit code: 0 if no rule was broken, 1 otherwise.
Called by: `make faults`.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.grounds import Ground, grounds
from tests.faults.run import run
from tests.faults.scenarios import FULL, SCENARIOS, SHORT
from tests.faults.verdict import HEADING, Verdict, line, table


def main() -> int:
    """Run what was asked for, all by default."""
    for kind in (signal.SIGINT, signal.SIGTERM):  # either ends what was started
        signal.signal(kind, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("brokers", nargs="*", metavar="broker", help="all by default")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="all by default")
    parser.add_argument("--short", action="store_true", help="the short pass of `make test`")
    options = parser.parse_args()
    there = grounds()
    if unknown := set(options.brokers) - there.keys():
        parser.error(f"no such broker: {', '.join(unknown)}; there are {', '.join(there)}")
    rows, broken = [HEADING], 0
    for name in options.brokers or there:
        keys = options.scenario or list(SCENARIOS)
        try:
            for key, found in done_to(there[name], keys, options.short):
                broken += not found.good
                rows.append(line(name, SCENARIOS[key].on(there[name]), found))
                print("  ".join(rows[-1]), flush=True)
        except pytest.skip.Exception as missing:
            print(missing)
    print(f"\n{table(rows)}\n\n{broken} of {len(rows) - 1} runs broke a rule")
    return 1 if broken else 0


def done_to(ground: Ground, keys: list[str], short: bool) -> Iterator[tuple[str, Verdict]]:
    """Do the harm of some scenarios to one broker; yield what each came to."""
    with (
        tempfile.TemporaryDirectory(prefix="dibs-server-") as folder,
        ground.serving(Path(folder)) as server,
    ):
        for key in keys:
            if ground.network or not SCENARIOS[key].network:
                yield key, run(ground, server, SCENARIOS[key], SHORT if short else FULL)


if __name__ == "__main__":
    sys.exit(main())
