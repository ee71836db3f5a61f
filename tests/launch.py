"""`dibs` with something wrong with it, or with a record of what its broker answers, or both.

    python tests/launch.py FAULT RECORD worker photos:app ...

FAULT is a name of `tests/regressions/faults.py`, RECORD a file for `tests/chaos/recorder.py`;
either may be "-". Both change the process of the pump, where the worker and the broker are; user
code runs in processes of its own, as ever.
Called by: the regression and the chaos tests.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Change this process, then be `dibs`; return its exit code."""
    fault, record, *arguments = sys.argv[1:]
    sys.path[0] = str(ROOT)
    if fault != "-":
        from tests.regressions.faults import FAULTS

        FAULTS[fault](setattr)
    if record != "-":
        from tests.chaos.recorder import record_into

        record_into(Path(record))
    from dibs.cli import main as dibs

    return dibs(arguments)


if __name__ == "__main__":
    sys.exit(main())
