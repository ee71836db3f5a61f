"""What the docs show of the code is what the code says."""

import re
from pathlib import Path

import pytest

from tools import ROOT
from tools.make_docs import MAKERS, made, outdated

PAGES = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/**/*.md"))


def test_the_pages_are_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path, _ in outdated(ROOT)]
    assert not stale, "run `python -m tools.make_docs`"


@pytest.mark.parametrize("name", MAKERS)
def test_everything_that_can_be_made_is_shown(name: str) -> None:
    assert f"<!-- made: {name} -->" in PAGES


def test_no_option_is_without_a_description() -> None:
    assert not re.search(r"\| +\|$", MAKERS["options"](), re.MULTILINE)


def test_what_stands_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- made: options -->\nstale rows\n<!-- end -->\nafter\n")
    ((path, wanted),) = outdated(tmp_path)
    assert path == page
    assert "| `queue` | default |" in wanted
    assert "stale rows" not in wanted
    assert wanted.startswith("before\n")
    assert wanted.endswith("\nafter\n")
    assert made(wanted) == wanted


WORDS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", WORDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_at_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|sql|md))`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    places = (ROOT, ROOT / "src" / "dibs")
    missing += [name for name in named if not any((place / name).exists() for place in places)]
    assert not missing
