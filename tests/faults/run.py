"""One scenario on one broker, from the first job to the verdict.

Owns: the order of a run.
Must never: know a broker or a scenario.
Called by: `__main__.py` and the tests.
"""

import tempfile
from pathlib import Path

from tests.faults.field import WORKERS, Field
from tests.faults.grounds import Ground
from tests.faults.scenarios import Scenario, Size
from tests.faults.verdict import Verdict, judge
from tests.servers import Server

LEAST_JOBS = 100


def run(
    ground: Ground, server: Server, scenario: Scenario, size: Size, fault: str = "-"
) -> Verdict:
    """Do harm while jobs are under way, mend it, wait until all is done, and judge."""
    with (
        tempfile.TemporaryDirectory(prefix="dibs-faults-") as folder,
        Field(ground, server, Path(folder), fault) as field,
    ):
        field.declare()
        for _ in range(WORKERS):
            field.start_worker()
        field.await_workers()
        field.begin(max(LEAST_JOBS, round(size.share * ground.jobs)), size.seconds)
        harm = scenario.harm(field, size)
        heal_seconds = field.heal_seconds()
        field.finish()
        found = judge(field, harm, scenario.severs, heal_seconds, size.grace_seconds)
        if not found.good:
            print(field.texts())
            print(f"seed {field.seed}: {found}")
        return found
