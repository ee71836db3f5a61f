"""The demo's audit passes what is right, and notices all that could be wrong."""

from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from dibs import once
from dibs.cli.demo import shop
from dibs.cli.demo.audit import (
    Audit,
    Cards,
    Photos,
    Repeated,
    audit_cards,
    audit_photos,
    explain,
)
from dibs.cli.demo.photos import make
from dibs.cli.demo.record import NAME, Record, note
from dibs.cli.demo.report import report
from dibs.cli.demo.tasks import render
from dibs.cli.demo.work import Faults

RIGHT = Audit(
    Photos(total=100, correct=100, lost=0, wrong=0, strange=0),
    Cards(total=50, naive_lost=0, naive_twice=3, lost=0, twice=0, strange=0),
    Repeated(total=9, lost_acks=5, killed=2, stopped=1),
    acks_lost=5,
    acks_refused=2,
)


@pytest.fixture
def photos(tmp_path: Path) -> dict[Path, Path]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "thumbnails").mkdir()
    make(tmp_path / "photos", 0, 4)
    pairs = {p: tmp_path / "thumbnails" / p.name for p in sorted((tmp_path / "photos").iterdir())}
    for photo, thumbnail in pairs.items():
        thumbnail.write_bytes(render(str(photo)))
    return pairs


@pytest.fixture
def charged(tmp_path: Path) -> str:
    """A shop in which four cards are charged, each in both ways, as jobs would."""
    path = str(tmp_path / shop.NAME)
    shop.make(path)
    for card in range(4):
        charge_naively(path, card)
        with closing(shop.opened(path)) as connection, once(connection, f"job {card}") as first:
            assert first
            shop.charge(connection, "charges", card)
    return path


def charge_naively(path: str, card: int) -> None:
    with closing(shop.opened(path)) as connection:
        shop.charge(connection, "naive_charges", card)


def change(path: str, sql: str) -> None:
    with closing(shop.opened(path)) as connection:
        connection.execute(sql)


def test_right_thumbnails_pass(photos: dict[Path, Path]) -> None:
    seen: list[int] = []
    assert audit_photos(photos, seen.append) == Photos(4, 4, 0, 0, 0)
    assert seen == [1, 2, 3, 4]


def test_thumbnails_that_are_lost_wrong_or_strange_are_found(
    photos: dict[Path, Path], tmp_path: Path
) -> None:
    first, second, third, _ = photos.values()
    first.unlink()
    second.write_bytes(third.read_bytes())
    third.write_bytes(third.read_bytes()[:-20])
    (tmp_path / "thumbnails" / "other.jpg").touch()
    found = audit_photos(photos, lambda _: None)
    assert found == Photos(total=4, correct=1, lost=1, wrong=2, strange=1)


def test_cards_that_are_charged_once_are_right(charged: str) -> None:
    assert audit_cards(charged, range(4)) == Cards(4, 0, 0, 0, 0, 0)


def test_cards_that_are_not_charged_or_twice_are_found(charged: str) -> None:
    charge_naively(charged, 3)
    charge_naively(charged, 3)
    change(charged, "DELETE FROM naive_charges WHERE card < 2")
    change(charged, "UPDATE charges SET card = 0 WHERE card = 1")
    assert audit_cards(charged, range(4)) == Cards(
        total=4, naive_lost=2, naive_twice=1, lost=1, twice=1, strange=1
    )


def test_charges_of_nobody_and_a_ledger_that_says_otherwise_are_found(charged: str) -> None:
    charge_naively(charged, 9)
    assert audit_cards(charged, range(4)).strange == 1
    change(charged, "DELETE FROM dibs_ledger")
    assert audit_cards(charged, range(4)).strange == 1 + 4


def test_each_repeated_job_has_one_cause(tmp_path: Path) -> None:
    for job in ("killed", "stopped", "lost", "slow"):
        note(tmp_path, "started", {"killed": 7, "stopped": 8}.get(job, 9), "t", job)
        note(tmp_path, "started", 9, "t", job)
    note(tmp_path, "started", 7, "t", "lost")
    note(tmp_path, "started", 7, "t", "not-repeated")
    note(tmp_path, "lost", 9, "t", "lost")
    found = explain(Record(tmp_path).read(), Faults(killed=7, stopped=8))
    assert found == Repeated(total=4, lost_acks=1, killed=1, stopped=1)
    assert found.others == 1


def test_the_record_is_read_on_from_where_it_was_and_whole_lines_only(tmp_path: Path) -> None:
    record = Record(tmp_path)
    assert not record.read().begun
    note(tmp_path, "started", 7, "charge", "a")
    note(tmp_path, "started", 7, "charge", "b")
    with (tmp_path / NAME).open("a") as file:
        file.write("finished 7 char")
    assert record.read().unfinished_by[7] == {"a": "charge", "b": "charge"}
    with (tmp_path / NAME).open("a") as file:
        file.write("ge a\n")
    note(tmp_path, "refused", 7, "charge", "b")
    assert record.read().unfinished_by[7] == {"b": "charge"}
    assert record.acks_refused.total() == 1
    assert record.begun.total() == 2


def test_a_job_that_another_worker_begins_is_told_from_one_that_is_begun_again(
    tmp_path: Path,
) -> None:
    note(tmp_path, "started", 7, "charge", "a")
    note(tmp_path, "started", 7, "charge", "a")
    record = Record(tmp_path)
    assert record.read().begun_elsewhere(7, "a") == 0
    note(tmp_path, "started", 8, "charge", "a")
    assert record.read().begun_elsewhere(7, "a") == 1
    assert record.begun_elsewhere(8, "a") == 2


def test_a_right_audit_has_no_failures() -> None:
    assert list(RIGHT.failures()) == []
    assert (RIGHT.done, RIGHT.lost, RIGHT.wrong) == (200, 0, 0)
    assert "audit passed" in report(RIGHT, 200, 10.0)


@pytest.mark.parametrize(
    ("part", "changes", "failure"),
    [
        ("photos", {"correct": 99, "lost": 1}, "1 jobs are lost"),
        ("photos", {"correct": 99, "wrong": 1}, "1 thumbnails or charges are wrong"),
        ("photos", {"strange": 2}, "2 thumbnails or charges are wrong"),
        ("cards", {"naive_lost": 1}, "1 jobs are lost"),
        ("cards", {"lost": 1}, "1 jobs are lost"),
        ("cards", {"strange": 1}, "1 thumbnails or charges are wrong"),
        ("cards", {"twice": 1}, "1 cards were charged twice through `once`"),
        ("cards", {"naive_twice": 0}, "no card was charged twice by the naive task"),
        (None, {"acks_lost": 0}, "no ack was lost"),
        (None, {"acks_refused": 0}, "no stale ack was refused"),
    ],
)
def test_what_is_wrong_or_shows_nothing_fails(
    part: str | None, changes: dict[str, int], failure: str
) -> None:
    if part is None:
        verdict = replace(RIGHT, **changes)
    else:
        verdict = replace(RIGHT, **{part: replace(getattr(RIGHT, part), **changes)})
    [found] = verdict.failures()
    assert found.startswith(failure)
    shown = report(verdict, 200, 10.0)
    assert "AUDIT FAILED" in shown
    assert failure in shown
