"""How long a file, a function and an adapter may be: `python -m tools.check_budgets`.

Owns the numbers. There are no exemptions: a budget that hurts means that a noun is missing.
Blank lines and comments count, since they are read too; a function's docstring does not, so that
nobody saves on explaining. Called by `make check`.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tools import ROOT, Problem, python_files, report

FILE = 400
FUNCTION = 40
ADAPTER = 400
INSPECTOR = 200


def problems(root: Path) -> Iterator[Problem]:
    """Everything in src and tools that is over a budget."""
    for folder in (root / "src", root / "tools"):
        for path, tree in python_files(folder):
            yield from _file(path)
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _function(path, node)
    for adapter in sorted((root / "src/dibs/brokers").glob("*/")):
        yield from _adapter(adapter)


def _file(path: Path) -> Iterator[Problem]:
    lines = _lines(path)
    if lines > FILE:
        yield Problem(path, lines, f"the file has {lines} lines, {FILE} is the budget: split it")


def _function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Problem]:
    lines = _extent(node)
    if ast.get_docstring(node, clean=False) is not None:
        lines -= _extent(node.body[0])
    if lines > FUNCTION:
        advice = f"{node.name} has {lines} lines, {FUNCTION} is the budget: name its parts"
        yield Problem(path, node.lineno, advice)


def _adapter(folder: Path) -> Iterator[Problem]:
    inspector = folder / "inspector.py"
    if inspector.exists() and _lines(inspector) > INSPECTOR:
        advice = f"the inspector has {_lines(inspector)} lines, {INSPECTOR} is the budget"
        yield Problem(inspector, 1, advice)
    lines = sum(_lines(path) for path in folder.rglob("*.py") if path != inspector)
    if lines > ADAPTER:
        advice = f"the adapter has {lines} lines of Python, {ADAPTER} is the budget"
        yield Problem(folder, 1, f"{advice}: say more in its scripts, or in the contract")


def _extent(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(report(problems(ROOT)))
