"""What no file of the project may say: `python -m tools.check_words`.

Owns the words that would promise too much, tie the project to one machine, or let a payload run
code. Patterns are written so that this file does not match itself. Called by `make check`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools import ROOT, Problem, report

ANYWHERE = {
    r"(?i)exactly[-\s]once\s+delivery": "delivery is at-least-once; only effects happen once",
    r"(?<![\w.~-])/(?:work|root|home|Users)/": "a path of one machine: make it relative",
    r"--(?:extra-|default-)?index-url": "where packages come from is the installer's own business",
    r"(?i)\bpypi\.org|pythonhosted\.org": "no registry is named: not everyone reaches it",
}
IN_REQUIREMENTS = {r"://": "a requirement is a name, a version and hashes, never an address"}

# Modules that run what a payload tells them to run.
UNSAFE = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}


def problems(root: Path) -> Iterator[Problem]:
    """Every forbidden word in the project's files."""
    for path in files(root):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a picture, or deleted and not yet committed
        top = path.relative_to(root).parts[0]
        yield from _forbidden(path, text, ANYWHERE)
        if top == "requirements":
            yield from _forbidden(path, text, IN_REQUIREMENTS)
        if top == "src" and path.suffix == ".py":
            yield from _unsafe(path, ast.parse(text))


def files(root: Path) -> Iterable[Path]:
    """What git tracks or would add; without git, everything but hidden folders."""
    command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        everything = (path for path in root.rglob("*") if path.is_file())
        return sorted(p for p in everything if not p.relative_to(root).parts[0].startswith("."))
    return sorted(root / name for name in listed.split("\0") if name)


def _forbidden(path: Path, text: str, words: dict[str, str]) -> Iterator[Problem]:
    for pattern, advice in words.items():
        for match in re.finditer(pattern, text):
            line = text.count("\n", 0, match.start()) + 1
            yield Problem(path, line, f"{' '.join(match[0].split())!r}: {advice}")


def _unsafe(path: Path, tree: ast.Module) -> Iterator[Problem]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case ast.Attribute(value=ast.Name(id="yaml"), attr="load"):
                yield Problem(path, node.lineno, "yaml.load runs code: use yaml.safe_load")
                continue
            case _:
                continue
        for module in modules:
            if module.partition(".")[0] in UNSAFE:
                yield Problem(path, node.lineno, f"{module} runs code: payloads are JSON")


if __name__ == "__main__":
    sys.exit(report(problems(ROOT)))
