"""Every example of README.md and docs/ does what it shows; page.py says by which rules."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("page.py")
PAGES = [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/**/*.md"))]
SECONDS = 60


def failure_of(page: Path, folder: Path, seconds: float = SECONDS) -> str:
    """Run a page in a folder; what it has to say if it failed, and nothing if it did not."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "error"}
    environment.pop("DIBS_URL", None)
    with subprocess.Popen(
        [sys.executable, str(RUNNER), str(page)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"not done after {seconds} s"
        finally:
            with suppress(ProcessLookupError):  # what the page has left running, if anything
                os.killpg(process.pid, signal.SIGKILL)
    return printed or f"ended with {process.returncode}" if process.returncode else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    failure = failure_of(page, tmp_path)
    assert not failure, f"{page.relative_to(ROOT)}: {failure}"


GOOD = """
```python
# photos.py
SIZE = 200
```
<!-- not run: there is no such thing -->
```console
$ no-such-command
```
- indented, as in a list:
  ```python
  import asyncio
  from photos import SIZE
  await asyncio.sleep(0)
  ```
```python
assert SIZE == 200
```
```console
$ python -c "import photos; print('size', photos.SIZE); print('end')"
size ...
end
$ echo nothing is compared here
```
"""


def test_a_page_that_holds_passes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(GOOD)
    assert failure_of(page, tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```python\nx = 1\nassert x == 2\n```", 'page.md", line 3'),
        ("```python\nimport warnings\nwarnings.warn('old')\n```", "UserWarning: old"),
        ("```python\n# photos.py\nx = 1\n```", "no later block imports or runs photos.py"),
        ("```console\n$ echo one\ntwo\n```", "`echo one` printed:\none"),
        ("```console\n$ exit 3\n```", "`exit 3` ended with 3"),
        ("```console\necho one\n```", "starts with `$ `"),
        ("```bash\necho one\n```", "line 1: write ```python or ```console"),
        ("<!-- not run: -->\n```python\nx\n```", "needs a reason"),
    ],
)
def test_a_page_that_does_not_hold_says_where_and_why(tmp_path: Path, text: str, says: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert says in failure_of(page, tmp_path)


def test_a_page_that_never_ends_is_ended(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ sleep 60\n```")
    assert failure_of(page, tmp_path, seconds=0.5) == "not done after 0.5 s"
