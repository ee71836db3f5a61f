"""What is a broker's URL, and how one is shown."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dibs.brokers.url import LOCAL, SERVERS, absolute, open_broker, redact
from dibs.clock import SystemClock
from dibs.errors import UrlError


def refusal(url: str) -> str:
    with pytest.raises(UrlError) as caught:
        absolute(url)
    return str(caught.value)


def test_a_relative_path_is_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert absolute("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert absolute(absolute("sqlite:///a b?.db")) == f"sqlite:///{tmp_path}/a b?.db"
    assert absolute("memory://x") == "memory://x"


def test_a_working_directory_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "sqlite:///a.db: the working directory is gone" in refusal("sqlite:///a.db")
    monkeypatch.undo()


@pytest.mark.parametrize("url", [Path("a.db"), 5, None, b"sqlite:///a.db"])
def test_what_is_no_text_is_no_url(url: Any) -> None:
    assert refusal(url).startswith(f"a broker's URL is a text, not {url!r}; a SQLite file is")


@pytest.mark.parametrize("url", ["sqlite:///a/", "sqlite:////tmp/a/b/", "sqlite:///a\nb.db"])
def test_a_file_that_nobody_means_is_not_made(url: str) -> None:
    assert refusal(url).startswith(f"{url!r}: a SQLite file is")


def test_options_of_other_libraries_are_no_part_of_a_files_name() -> None:
    assert "sqlite:///a.db?timeout=5: a queue file takes no options" in refusal(
        "sqlite:///a.db?timeout=5"
    )


def test_a_url_opens_its_broker(tmp_path: Path) -> None:
    for url in ("memory://url", f"sqlite:///{tmp_path}/url.db"):
        broker = open_broker(url, worker_id=bytes(16), clock=SystemClock())
        assert broker.url == url
        broker.close()


@pytest.mark.parametrize(
    "url", ["dibs.db", "/tmp/dibs.db", "./a.db", "sqlite://dibs.db", "sqlite:dibs.db", "sqlite",
            "sqlite://", "sqlite:///", "C:\\dibs.db", "", "sqlite:///a\0b", "sqlite:/a.db"],
)  # fmt: skip
def test_another_way_to_name_a_file_is_shown_the_right_form(url: str) -> None:
    assert "`sqlite:///file.db` (from the working directory)" in refusal(url)
    assert "`sqlite:////full/path/file.db`" in refusal(url)


def test_a_scheme_that_has_no_adapter_is_refused() -> None:
    assert "did you mean `sqlite`?" in refusal("sqlit:///a.db")
    assert "did you mean `redis`" in refusal("reddis://u:hunter2@h")
    assert "hunter2" not in refusal("reddis://u:hunter2@h")
    assert "`memory://name`" in refusal("sqlite:///:memory:")
    assert "`memory://name`" in refusal("memory:x")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql:/user:hunter2@h/db", "***@h/db: write `postgresql://...`"),
        ("redis:user:hunter2@h", "***@h: write `redis://...`"),
        ("amqp//user:hunter2@h", "***@h: write `amqp://...`"),
        ("redis:/hunter2@h", "***@h: write `redis://...`"),
        ("redis", "redis: write `redis://...`"),
        ("reddis:/u:hunter2@h", "***@h: there is no broker `reddis`; did you mean `redis` or"),
    ],
)
def test_what_is_not_quite_a_url_is_shown_the_right_form_without_its_password(
    url: str, text: str
) -> None:
    assert refusal(url).startswith(text)


def test_what_comes_before_a_colon_is_called_a_broker_only_if_it_can_be_one() -> None:
    assert "hunter2" not in refusal("user:hunter2@h:1")
    assert refusal("hunter2@h:1").startswith("***@h:1 is no broker's URL")
    assert refusal("://hunter2@h:1").startswith("://***@h:1 is no broker's URL")


def test_what_is_offered_instead_can_be_used() -> None:
    for scheme in ("kafka", "amqq", "postgre", "sqlit", "sq"):
        _, _, offered = refusal(f"{scheme}://host").partition(f"there is no broker `{scheme}`")
        assert set(re.findall(r"`(\w+)`", offered)) <= {*LOCAL, *SERVERS}
    assert "`redis`" in refusal("kafka://host")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@host:1/0", "redis://***@host:1/0"),
        ("redis://hunter2@host", "redis://***@host"),
        ("amqp://user:hun@ter2/x@host/v", "amqp://***@host/v"),
        ("redis://h?password=hunter2&db=1", "redis://h?password=***&db=1"),
        ("pg://h/d?a=1&sslpassword=hunter2", "pg://h/d?a=1&sslpassword=***"),
        ("sqs://q?AWS_SECRET_ACCESS_KEY=hunter2;x=1", "sqs://q?AWS_SECRET_ACCESS_KEY=***;x=1"),
        ("sqs://q?t%6fken=hunter2", "sqs://q?t%6fken=***"),
        ("host=x password=hunter2 dbname=y", "host=x password=*** dbname=y"),
        ("sqlite:////srv/a@b/c.db", "sqlite:////srv/a@b/c.db"),
        ("/srv/a@b/c.db", "/srv/a@b/c.db"),
        ("../a@b/c.db", "../a@b/c.db"),
        ("postgresql:/user:hunter2@h/db", "***@h/db"),
        ("user:hunter2@h", "***@h"),
        ("hunter2@h:1", "***@h:1"),
        ("//hunter2@h", "***@h"),
        ("redis:/u:hunter2://x@h", "***@h"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.text())
@example("://@")
@example("a" * 100_000)
@example("=" * 10_000)
def test_redaction_and_resolution_never_fail_otherwise(url: str) -> None:
    redact(url)
    try:
        resolved = absolute(url)
    except UrlError:
        return
    assert re.match(f"memory://|(redis|valkey)s?://|sqlite:///{os.sep}", resolved)
