"""Runs what one page of the docs shows: `python page.py README.md`, in an empty working directory.

The rules, for whoever writes a page:

- Every ```python block is run, in order; the blocks of one page share their names. `await` works at
  the top level.
- A ```python block whose first line is a comment that names a file (`# photos.py`) is written to
  that file instead, for later blocks to import or run. A file that none of them names is an error.
- A ```console block is run too: each line that starts with `$ ` is a command, in a shell of its
  own, and must end with 0. The lines below it, if there are any, are what it prints (standard
  output and error together); `...` in them stands for anything.
- A block right below `<!-- not run: why -->` is not run.
- Shell or Python in a block of another name is an error: it would be an example that nobody proves.

A page runs in an interpreter and a directory of its own, with warnings as errors. test_docs.py
calls this file and bounds its time; nothing imports it.
"""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run:(.*?)-->\s*\Z", re.DOTALL)
NAMED_FILE = re.compile(r"# ([\w/]+)\.py *\n")
ALIASES = {"py", "python3", "pycon", "sh", "bash", "shell", "shellsession", "zsh"}


class Block(NamedTuple):
    """One example that is to be run, and the line of the page on which its text starts."""

    language: str
    text: str
    line: int


class BadPage(Exception):
    """The page does not do what it shows; the message says where and why."""


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that are to be run."""
    for match in BLOCK.finditer(page):
        line = page.count("\n", 0, match.start()) + 2
        above = NOT_RUN.search(page, 0, match.start())
        if above and not above[1].strip():
            raise BadPage(f"line {line - 1}: a block that is not run needs a reason")
        if match[2] in ALIASES:
            raise BadPage(f"line {line - 1}: write ```python or ```console, not ```{match[2]}")
        if not above and match[2] in ("python", "console"):
            yield Block(match[2], textwrap.dedent(match[3]), line)


def run(path: Path) -> None:
    """Run every block of a page, in order."""
    todo = list(blocks(path.read_text(encoding="utf-8")))
    names = {"__name__": "__main__"}
    for number, block in enumerate(todo, start=1):
        named = NAMED_FILE.match(block.text)
        if block.language == "console":
            run_console(block)
        elif named:
            write_file(named[1], block, later=todo[number:])
        else:
            run_python(block, names, path)


def write_file(name: str, block: Block, later: list[Block]) -> None:
    module = re.compile(rf"\b{re.escape(name)}\b|\b{re.escape(name.replace('/', '.'))}\b")
    if not any(module.search(other.text) for other in later):
        raise BadPage(f"line {block.line}: no later block imports or runs {name}.py")
    file = Path(f"{name}.py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, encoding="utf-8")


def run_python(block: Block, names: dict[str, str], path: Path) -> None:
    padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
    code = compile(padded, path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, names)
    if inspect.iscoroutine(waiting):
        asyncio.run(waiting)


def run_console(block: Block) -> None:
    before, *commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    if before.strip() or not commands:
        raise BadPage(f"line {block.line}: a console block starts with `$ ` and a command")
    for shown in commands:
        command, _, expected = shown.partition("\n")
        done = subprocess.run(
            command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BadPage(f"`{command}` ended with {done.returncode}:\n{done.stdout}")
        if expected.strip() and not is_like(done.stdout, expected):
            raise BadPage(f"`{command}` printed:\n{done.stdout}\nand the page says:\n{expected}")


def is_like(printed: str, expected: str) -> bool:
    """Whether an output is what the page shows, with `...` for anything."""
    pattern = ".*".join(re.escape(part) for part in tidy(expected).split("..."))
    return re.fullmatch(pattern, tidy(printed), re.DOTALL) is not None


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


if __name__ == "__main__":
    sys.path[0] = ""
    try:
        run(Path(sys.argv[1]))
    except BadPage as error:
        sys.exit(str(error))
