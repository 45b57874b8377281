from __future__ import annotations

import pytest
import typer

from captum_vit.cli import arguments
from captum_vit.cli.arguments import writable_folder


def test_a_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert writable_folder(folder) == folder
    assert list(folder.iterdir()) == []


def test_a_folder_that_exists_and_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def read_only(dir):  # noqa: A002 the standard library's name
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(arguments, "TemporaryFile", read_only)
    with pytest.raises(typer.BadParameter, match=r"can't be written: Permission denied\.") as refusal:
        writable_folder(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path))
    assert refusal.value.param_hint == "--output"


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(typer.BadParameter, match=rf"{path} can't be written: (File exists|Not a directory)\."):
            writable_folder(path)
