"""Checkpoints: what was saved comes back, and what is not whole is refused."""

import errno
from pathlib import Path

import pytest
import torch

from pauca.errors import ConfigError, PaucaError
from pauca.runs.checkpoints import checkpoints, clean_up, load_checkpoint, save_checkpoint
from pauca.runs.processes import Stopped, wait_for_all


def state(value: float) -> dict:
    return {"model": {"weight": torch.full((3, 4), value)}, "step": int(value), "best": {"loss": None}}


def test_what_was_saved_comes_back(tmp_path):
    path = save_checkpoint(tmp_path, 7, state(7.0), {"seed": "1"})
    loaded = state(0.0)
    load_checkpoint(path, loaded, {"seed": "1"})
    assert torch.equal(loaded["model"]["weight"], torch.full((3, 4), 7.0))
    assert loaded["step"] == 7
    assert path.name == "step-00000007"


def test_the_latest_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        save_checkpoint(tmp_path, step, state(step), {}, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000010", "step-00000011"]
    assert sorted(tmp_path.iterdir()) == checkpoints(tmp_path)  # and nothing hidden


def test_a_step_saved_again_replaces_the_first(tmp_path):
    save_checkpoint(tmp_path, 3, state(1.0), {})
    path = save_checkpoint(tmp_path, 3, state(2.0), {})
    loaded = state(0.0)
    load_checkpoint(path, loaded, {})
    assert loaded["step"] == 2
    assert checkpoints(tmp_path) == [path]


def test_other_settings_are_refused_by_name(tmp_path):
    path = save_checkpoint(tmp_path, 1, state(1.0), {"train.seed": "1", "the text": "a"})
    with pytest.raises(ConfigError, match=r"written with train\.seed 1, but now train\.seed is 2"):
        load_checkpoint(path, state(0.0), {"train.seed": "2", "the text": "a"})


def test_settings_that_a_checkpoint_is_too_old_for_must_be_off(tmp_path):
    path = save_checkpoint(tmp_path, 1, state(1.0), {"model.recipe": "{'kept': 'fp8'}", "model.center": "True"})
    off = {"model.recipe": "{'kept': 'fp8', 'new': False}", "model.center": "1.0", "model.whiten": "0.0"}
    load_checkpoint(path, state(0.0), off)
    with pytest.raises(ConfigError, match=r"written with model.whiten None, but now model.whiten is 0\.5"):
        load_checkpoint(path, state(0.0), off | {"model.whiten": "0.5"})
    for recipe, center in (("{'kept': 'fp8', 'new': True}", "1.0"), ("{'kept': 'fp8'}", "0.5"), ("{}", "1.0")):
        with pytest.raises(ConfigError, match=r"restore it, or start a new run"):
            load_checkpoint(path, state(0.0), {"model.recipe": recipe, "model.center": center})


def _refused(rank: int, folder: Path) -> str:
    path = save_checkpoint(folder, 1, state(1.0), {})
    if rank == 0:
        (path / "origin.json").write_text("damaged")  # the only file of which rank 1 alone reads the checksum
    wait_for_all()
    with pytest.raises(PaucaError) as found:
        load_checkpoint(path, state(0.0), {})
    return str(found.value)


def test_all_processes_refuse_what_one_finds_damaged(tmp_path, together):
    for message in together(_refused, 2, tmp_path):
        assert "origin.json is damaged (another checksum than was written)" in message


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "origin.json"])
def test_a_damaged_file_is_named_with_the_checkpoint_before(tmp_path, file):
    save_checkpoint(tmp_path, 1, state(1.0), {})
    path = save_checkpoint(tmp_path, 2, state(2.0), {})
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (path / file).write_bytes(content)
    with pytest.raises(PaucaError, match=rf"{file} is damaged.*remove that folder to go on from step-00000001"):
        load_checkpoint(path, state(0.0), {})


@pytest.mark.parametrize("file", ["__0_0.distcp", "checksums.json"])
def test_a_missing_file_is_said(tmp_path, file):
    path = save_checkpoint(tmp_path, 2, state(2.0), {})
    (path / file).unlink()
    with pytest.raises(PaucaError, match=r"is not whole \(No such file.*go on from the beginning"):
        load_checkpoint(path, state(0.0), {})


def test_another_model_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 2, state(2.0), {})
    with pytest.raises(PaucaError, match="does not fit this training"):
        load_checkpoint(path, {"model": {"weight": torch.zeros(5, 5)}}, {})
    with pytest.raises(PaucaError, match="does not fit this training"):
        load_checkpoint(path, {"model": {"bias": torch.zeros(3, 4)}}, {})


@pytest.mark.parametrize("where", ["data", "metadata", "seal"])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, where):
    save_checkpoint(tmp_path, 1, state(1.0), {})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        filesystem = "torch.distributed.checkpoint.filesystem"
        target = {"data": f"{filesystem}.torch.save", "metadata": f"{filesystem}.pickle.dump", "seal": "os.fsync"}
        patch.setattr(target[where], full)
        with pytest.raises(PaucaError, match=r"No space left on device\); step-00000001 is whole"):
            save_checkpoint(tmp_path, 2, state(2.0), {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("where", ["torch.distributed.checkpoint.filesystem.torch.save", "os.fsync"])
def test_a_scheduler_that_ends_the_writing_is_no_full_disk(tmp_path, monkeypatch, where):
    save_checkpoint(tmp_path, 1, state(1.0), {})

    def told(*_: object, **__: object) -> None:
        raise Stopped("stopped by SIGTERM, as torchrun and schedulers send it")

    monkeypatch.setattr(where, told)
    with pytest.raises(
        Stopped, match=r"step-00000002: was being written \(stopped by SIGTERM.*\); step-00000001 is whole; go on"
    ):
        save_checkpoint(tmp_path, 2, state(2.0), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_full_disk_at_the_first_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(PaucaError, match="there is no earlier one"):
        save_checkpoint(tmp_path, 2, state(2.0), {})
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_leave_is_removed(tmp_path):
    whole = save_checkpoint(tmp_path, 1, state(1.0), {})
    for name in (".step-00000002", ".step-00000000.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").touch()
    clean_up(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def test_checkpoints_of_an_empty_folder(tmp_path: Path):
    assert checkpoints(tmp_path) == []
