"""The project's own checks: the rules that no linter knows of.

Owns the words in which a problem is told. Must never be imported by dibs. `make check` runs each
module; tests/unit/test_tools.py shows that each rule catches what it is there for.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Problem(NamedTuple):
    """One broken rule: where, and what to do about it."""

    path: Path
    line: int
    advice: str


def python_files(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file below a folder, parsed, in a stable order."""
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def report(problems: Iterable[Problem]) -> int:
    """Print each problem as `file:line: advice`; return the exit code."""
    found = list(problems)
    for path, line, advice in found:
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        print(f"{shown}:{line}: {advice}", file=sys.stderr)
    return 1 if found else 0
