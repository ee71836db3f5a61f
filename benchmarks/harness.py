"""Running figures and telling what came out.

Owns: the order of runs, the medians, the table, the JSON, and the folder that queue files lie in.
Must never: know what a figure measures. Called by `__main__` and by each figure.

The two sides of a figure are run in turn, so that a machine that slows down slows both. What is
reported is the median over the runs, and the ratio is the median of the ratios of neighbours.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec
from msgspec import Struct

import dibs
from dibs.local.disk import IN_MEMORY, file_system

RESULTS = Path(__file__).parent / "results"

Sense = Literal["at least", "at most"]


class Bar(Struct, frozen=True):
    """What a number must reach."""

    sense: Sense
    limit: float

    def met(self, value: float) -> bool:
        """Whether `value` reaches it."""
        return value >= self.limit if self.sense == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.sense == 'at least' else '<='} {shown(self.limit)}"


class Row(Struct, frozen=True):
    """One line of the table: a number and, where there is one, the bare work beside it."""

    figure: str
    unit: str
    value: float
    bar: Bar | None = None
    bare: float | None = None
    ratio: float | None = None
    ratio_bar: Bar | None = None
    values: list[float] = []
    bares: list[float] = []
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether its bars are reached; None where it has none."""
        checks = [(self.bar, self.value), (self.ratio_bar, self.ratio)]
        answers = [bar.met(value) for bar, value in checks if bar and value is not None]
        return all(answers) if answers else None


class Context(Struct, frozen=True):
    """What a figure is run with: `runs` of each side, and `scale` of the full amount of jobs."""

    quick: bool
    runs: int
    scale: float

    def jobs(self, count: int) -> int:
        """Return how many jobs to use where the figure asks for `count`."""
        return max(100, int(count * self.scale))


Figure = Callable[[Context], list[Row]]


def at_least(limit: float) -> Bar:
    """A bar that is reached from below."""
    return Bar("at least", limit)


def at_most(limit: float) -> Bar:
    """A bar that must not be passed."""
    return Bar("at most", limit)


def alternate(
    runs: int, real: Callable[[], float], bare: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Run both sides in turn, each first as often as the other."""
    reals: list[float] = []
    bares: list[float] = []
    sides = ((reals, real), (bares, bare))
    for number in range(runs):
        for values, run in sides if number % 2 else sides[::-1]:
            values.append(run())
    return reals, bares


def compared(
    figure: str,
    unit: str,
    sides: tuple[list[float], list[float]],
    *,
    bar: Bar | None = None,
    ratio_bar: Bar | None = None,
    note: str = "",
) -> Row:
    """Return the row of a figure that was run beside the bare work."""
    reals, bares = sides
    ratio = statistics.median(real / bare for real, bare in zip(reals, bares, strict=True))
    return Row(
        figure,
        unit,
        statistics.median(reals),
        bar,
        statistics.median(bares),
        ratio,
        ratio_bar,
        reals,
        bares,
        note,
    )


def plain(figure: str, unit: str, values: list[float], bar: Bar | None, note: str = "") -> Row:
    """Return the row of a figure that stands alone."""
    return Row(figure, unit, statistics.median(values), bar, values=values, note=note)


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of `values` do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder on a disk, gone afterwards: memory would make every commit free."""
    RESULTS.mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="run-", dir=RESULTS))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on, naming neither host nor path."""
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    with folder() as path:
        kind = file_system(path)
    if kind in IN_MEMORY:
        sys.exit("benchmarks: the queue files would lie in memory: run this in a clone on a disk")
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": model,
        "cores": os.cpu_count(),
        "file_system": kind,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        "msgspec": msgspec.__version__,
        "dibs": dibs.__version__,
        "load_before": round(os.getloadavg()[0], 2),
    }


def shown(value: float | None) -> str:
    """Return a number as people read it."""
    if value is None:
        return "-"
    if abs(value) >= 1_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def line(row: Row) -> str:
    """Return one line of the table."""
    verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
    bar = f"{row.bar or ''}"
    ratio = f"{shown(row.ratio)} {row.ratio_bar or ''}" if row.ratio is not None else ""
    cells = (f"{shown(row.value)} {row.unit}", bar, shown(row.bare), ratio, verdict)
    text = f"{row.figure:<52}" + "".join(f"{cell:>20}" for cell in cells)
    return f"{text}\n    {row.note}" if row.note else text


def heading() -> str:
    """Return the first line of the table."""
    cells = ("measured", "bar", "bare", "ratio", "verdict")
    return f"{'figure':<52}" + "".join(f"{cell:>20}" for cell in cells)


def save(path: Path, about: dict[str, Any], rows: dict[str, list[Row]]) -> None:
    """Write the rows as JSON."""
    path.parent.mkdir(exist_ok=True)
    figures = {
        name: [msgspec.to_builtins(row) | {"met": row.met} for row in several]
        for name, several in rows.items()
    }
    path.write_text(json.dumps({"machine": about, "figures": figures}, indent=1) + "\n")
