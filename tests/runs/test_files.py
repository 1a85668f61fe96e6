import errno
import json
import os
from pathlib import Path

import pytest

from pauca.errors import InputError, PaucaError
from pauca.runs import atomic_write, check_can_write, files, json_text, write_text


def test_writes_into_folders_that_do_not_exist_yet(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "few")
    assert (tmp_path / "a" / "b.txt").read_text() == "few"


def test_json_has_null_for_numbers_that_there_are_not():
    values = {"a": [1.5, float("nan")], "b": {"c": (float("inf"), -float("inf"), "inf", 2, None, True)}}
    assert json.loads(json_text(values)) == {"a": [1.5, None], "b": {"c": [None, None, "inf", 2, None, True]}}


def test_refuses_to_overwrite_without_force(tmp_path):
    path = tmp_path / "result.csv"
    write_text(path, "first")
    with pytest.raises(InputError, match=r"result\.csv: exists already.*--force"):
        write_text(path, "second")
    assert path.read_text() == "first"
    write_text(path, "second", force=True)
    assert path.read_text() == "second"


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "result.csv"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, force=True) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.csv"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "result.csv"
    with pytest.raises(PaucaError, match=r"result\.csv: could not be written \(No space left"), atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not path.exists()


def test_a_read_only_disk_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with (
        pytest.raises(PaucaError, match=r"result\.csv: could not be written \(Read-only"),
        atomic_write(tmp_path / "result.csv"),
    ):
        refuse()


def test_a_folder_without_permission_is_found_before_the_work(tmp_path, monkeypatch):
    def refuse(*_, **__):  # as /proc, or a read-only disk, refuse root, whose permissions say yes
        raise PermissionError

    monkeypatch.setattr(files.Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"you may not write to .*; choose another"):
        check_can_write(tmp_path / "new" / "result.csv")


def test_a_file_in_the_place_of_a_folder_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file and not a folder"):
        check_can_write(tmp_path / "file" / "deeper" / "result.csv")


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_write(tmp_path / "ours") as temporary:
        temporary.write_text("")
        temporary.chmod(0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "")
    finally:
        os.umask(before)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
