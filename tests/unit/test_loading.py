"""What is shown of a module that cannot be imported."""

import os
from pathlib import Path

import pytest

import dibs
from dibs.errors import AppImportFailed
from dibs.loading import import_app


def test_frames_of_a_package_whose_name_begins_as_ours_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = f"{os.path.dirname(dibs.__file__)}_jobs/photos.py"
    (tmp_path / "begins_as_ours.py").write_text(f"exec(compile('1 / 0', {theirs!r}, 'exec'))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AppImportFailed, match=r'dibs_jobs/photos\.py", line 1'):
        import_app("begins_as_ours:app")
