"""What is shown of a module that cannot be imported."""

import os
from pathlib import Path

import pytest

import dibs
from dibs.errors import AppImportFailed, AppNotFound
from dibs.loading import import_app


def test_frames_of_a_package_whose_name_begins_as_ours_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = f"{os.path.dirname(dibs.__file__)}_jobs/photos.py"
    (tmp_path / "begins_as_ours.py").write_text(f"exec(compile('1 / 0', {theirs!r}, 'exec'))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AppImportFailed, match=r'dibs_jobs/photos\.py", line 1'):
        import_app("begins_as_ours:app")


def test_a_point_in_the_place_of_the_colon_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_a_point.py").write_text("from dibs import App\napp = App()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AppNotFound, match=r"searched; did you mean `with_a_point:app`\?$"):
        import_app("with_a_point.app")
    with pytest.raises(AppNotFound, match=r"searched$"):
        import_app("not_there.app")


def test_nothing_is_enqueued_by_the_import_of_an_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that is given the app would do it, and each look at a queue would fill it."""
    lines = [
        "from dibs import App",
        "app = App('memory://by_import')",
        "@app.task",
        "def f() -> None: ...",
        "f.enqueue()",
    ]
    (tmp_path / "enqueues.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AppImportFailed, match=r"enqueues\.py:5 enqueues a job while dibs imports"):
        import_app("enqueues:app")
