"""The programs of examples/ do what they say, in a folder of their own."""

import re
import signal
from pathlib import Path

import pytest

from tests.examples.stage import EXAMPLES, Stage
from tools import ROOT


def block(page: Path, name: str) -> str:
    """The block of a page that is written to the file `name`."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"```python\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)
    assert found, f"{page.name} shows no {name}"
    return found[1]


def test_the_photos_are_enqueued_and_done(stage: Stage) -> None:
    assert "1000 more" in stage.run("send.py")
    printed = stage.run("-m", "dibs", "worker", "photos:app", "--drain")
    assert len(printed.splitlines()) == 1_001
    assert "a.jpg -> a-64.jpg" in printed
    assert '"ready":0,"scheduled":1' in stage.run("-m", "dibs", "queues", "photos:app", "--json")


@pytest.mark.parametrize("name", ["photos.py", "send.py"])
def test_the_readme_shows_the_same_statements(name: str) -> None:
    shown = block(ROOT / "README.md", name)
    for line in (line.partition("  #")[0].strip() for line in shown.splitlines()):
        assert line in (EXAMPLES / name).read_text(encoding="utf-8"), line


def test_ones_own_consumer_takes_jobs_until_it_is_stopped(stage: Stage) -> None:
    stage.run("-c", "from photos import resize; resize.enqueue('a.jpg', width=64)")
    consumer = stage.start("own_consumer.py")
    consumer.line("a.jpg")
    stage.run("-c", "from photos import resize; resize.enqueue('b.jpg')")
    consumer.line("b.jpg")
    consumer.send(signal.SIGINT)
    assert consumer.end() == 0
    first, second = consumer.text.splitlines()
    assert first == "resize {'path': 'a.jpg', 'width': 64} attempt 1"
    assert "b.jpg" in second
