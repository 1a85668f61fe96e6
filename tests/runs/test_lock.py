"""A folder is written by one process at a time, and a lock ends with its process."""

import errno
import multiprocessing
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pauca.errors import InputError, PaucaError
from pauca.runs import Run, lock_folder
from pauca.runs.lock import NAME


def elsewhere(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function says in another process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(work(*arguments)))
    process.start()
    assert ours.poll(30)
    said = ours.recv()
    process.join()
    return said


def _try(path: Path) -> str:
    try:
        with lock_folder(path):
            return "had it"
    except InputError as error:
        return str(error)


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path):
    folder = tmp_path / "run"
    with lock_folder(folder):
        said = elsewhere(_try, folder)
        assert said.startswith(f"{folder}: process {os.getpid()} on {platform.node()} (since ")
        assert said.endswith("is writing there; wait until it ends, or choose another folder")
        with lock_folder(folder):  # the same process may
            pass
        assert "is writing there" in elsewhere(_try, folder)  # and keeps it
    assert elsewhere(_try, folder) == "had it"
    assert not folder.exists()  # nothing was written


def _die_with_it(path: Path, said: Any) -> None:
    with lock_folder(path):
        said.send("locked")
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_die_with_it, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "locked"
    process.join()
    assert (tmp_path / NAME).exists()
    with lock_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / NAME).read_text()


def test_a_locked_run_can_be_read(tmp_path):
    run = Run(tmp_path)
    run.log(step=1)
    with lock_folder(tmp_path):
        assert elsewhere(lambda: [line["step"] for line in run.metrics()]) == [1]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PaucaError, match=r"file/run: cannot be written \(Not a directory\)"),
        lock_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with lock_folder(tmp_path):
        pass


def test_a_folder_that_was_made_for_nothing_goes(tmp_path):
    with lock_folder(tmp_path / "new" / "run"):
        pass
    assert not (tmp_path / "new" / "run").exists()
    with lock_folder(tmp_path):
        pass
    assert tmp_path.exists()
    with lock_folder(tmp_path / "kept"):
        (tmp_path / "kept" / "config.yaml").write_text("")
    assert (tmp_path / "kept" / "config.yaml").exists()


def test_what_can_be_no_folder_is_wrong_usage(tmp_path):
    with pytest.raises(InputError, match=r"/proc/x: cannot be written"), lock_folder(Path("/proc/x")):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, but a run is a folder"), lock_folder(tmp_path / "file"):
        pass
