"""Who may ask the machine for the time or for chance: `python -m tools.check_seams`.

Owns the list of such calls, and of the places where the real ones live. Everything else in dibs is
handed a clock or a source of randomness, which is why pump, policy, producers and lease upkeep run
in a deterministic simulation. A type annotation is free, and so is `datetime` as a value.
Called by `make check`.
"""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from tools import ROOT, Problem, python_files, report

WAY_OUT = "take the clock or the randomness of dibs/clock.py as an argument and ask that"

# A name that ends in a dot stands for all that is in the module.
REAL = (
    "asyncio.sleep",
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "os.getrandom",
    "os.urandom",
    "random.",
    "secrets.",
    "time.",
    "uuid.uuid1",
    "uuid.uuid4",
    "uuid.uuid6",
    "uuid.uuid7",
)

# The seam itself, what stands outside of the simulation, and what an adapter is built of. The
# contract, the url and the memory broker are simulated like all the rest.
OUTSIDE = (
    "clock.py",
    "cli/*",
    "runners/*",
    "testing/*",
    "web/*",
    "brokers/sqlite/*",
    "brokers/together.py",
    "wires/amqp/*",
    "local/*",
)


def problems(root: Path) -> Iterator[Problem]:
    """Every place in src/dibs that reaches past the seams."""
    package = root / "src/dibs"
    for path, tree in python_files(package):
        name = path.relative_to(package).as_posix()
        if not any(fnmatch(name, place) for place in OUTSIDE):
            yield from _reaches(path, tree)


def _reaches(path: Path, tree: ast.Module) -> Iterator[Problem]:
    origins = _imported(tree)
    free = {id(part) for note in _annotations(tree) for part in ast.walk(note)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in free:
            name = _qualified(node, origins)
            if name is not None and _is_real(name):
                yield Problem(path, node.lineno, f"{name} is the real one: {WAY_OUT}")


def _is_real(name: str) -> bool:
    return any(name.startswith(real) if real[-1] == "." else name == real for real in REAL)


def _imported(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, wherever in the file it is imported."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                origins[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return origins


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns


def _qualified(node: ast.expr, origins: dict[str, str]) -> str | None:
    """The full name that an expression stands for, or None if it is not an imported name."""
    if isinstance(node, ast.Name):
        return origins.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _qualified(node.value, origins)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


if __name__ == "__main__":
    sys.exit(report(problems(ROOT)))
