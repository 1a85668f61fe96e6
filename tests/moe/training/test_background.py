"""Checkpoints written while training goes on: the same as those it waits for, and as hard to lose."""

import errno
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pauca.errors import ConfigError, PaucaError
from pauca.moe import MoELM, TokenData
from pauca.moe.training.loop import TrainResult, train
from pauca.moe.training.trainer import Trainer
from pauca.runs import Run
from pauca.runs import checkpoints as checkpoints_module
from pauca.runs.background import BackgroundCheckpoints
from pauca.runs.checkpoints import checkpoints, load_checkpoint
from pauca.runs.divergence import Diverged
from pauca.runs.processes import OtherStopped

from ...runs.killing import CHECKPOINT_MOMENTS, in_another_process, kill_at
from .smallest import CONFIG, fresh, text

ASYNC = replace(CONFIG, checkpoint_async=True)


@pytest.fixture
def data(tmp_path) -> TokenData:
    return text(tmp_path)


def run_to_end(path: Path, data: TokenData, config=ASYNC, resume: bool = False) -> tuple[TrainResult, MoELM, Run]:
    run, model = Run.create(path, config, resume=resume), fresh()
    return train(model, config, data, run, resume), model, run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[TrainResult, MoELM, Run]:
    """A training that waits for its checkpoints."""
    folder = tmp_path_factory.mktemp("unbroken")
    return run_to_end(folder / "run", text(folder), CONFIG)


def stored(path: Path, data: TokenData) -> dict[str, torch.Tensor]:
    """Weights in a checkpoint."""
    trainer = Trainer(fresh(), data, CONFIG)
    state = trainer.state() | {"best": {"loss": None, "step": 0}}
    load_checkpoint(path, state, checkpoints_module.json.loads((path / "origin.json").read_text()))
    return state["model"]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_goes_on_while_a_checkpoint_is_written_of_the_weights_from_before(
    unbroken, data, tmp_path, monkeypatch
):
    """Writing the checkpoint of step 2 waits for step 3, which a training that waits for it never takes."""
    third, step, write = threading.Event(), Trainer.step, checkpoints_module._torchs

    def stepping(trainer: Trainer) -> Any:
        found = step(trainer)
        if trainer.steps_done == 3:
            third.set()
        return found

    def waiting() -> Any:
        assert third.wait(60)
        return write()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stepping)
        patch.setattr(checkpoints_module, "_torchs", waiting)
        result, model, run = run_to_end(tmp_path / "run", data, replace(ASYNC, keep_checkpoints=3))
    assert result == unbroken[0]
    assert [path.name for path in checkpoints(run.checkpoints)] == [f"step-{n:08d}" for n in (2, 4, 6)]
    assert_same(stored(checkpoints(run.checkpoints)[-1], data), model.state_dict())
    waited = run_to_end(tmp_path / "waited", data, replace(CONFIG, keep_checkpoints=3))[2]
    for own, other in zip(checkpoints(run.checkpoints), checkpoints(waited.checkpoints), strict=True):
        assert_same(stored(own, data), stored(other, data))
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".step")]
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def _train_until_killed(path: Path, data: TokenData, target: str, call: int, after: bool) -> None:
    kill_at(target, call, after)
    run_to_end(path, data)


@pytest.mark.parametrize("moment", CHECKPOINT_MOMENTS)
def test_a_killed_run_goes_on_bit_for_bit(moment, unbroken, data, tmp_path):
    target, call, after, survives = CHECKPOINT_MOMENTS[moment]
    path = tmp_path / "run"
    assert in_another_process(_train_until_killed, path, data, target, call, after) == -signal.SIGKILL
    assert int(checkpoints(Run(path).checkpoints)[-1].name.removeprefix("step-")) == survives
    result, model, run = run_to_end(path, data, resume=True)
    assert result == unbroken[0]
    assert_same(model.state_dict(), unbroken[1].state_dict())
    assert not [file for file in run.checkpoints.iterdir() if file.name.startswith(".step")]


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _after(calls: int, first: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    functions = iter([first] * calls)
    return lambda *arguments: next(functions, then)(*arguments)


@pytest.mark.parametrize("whole", [1, 2])
def test_a_full_disk_stops_in_one_line_and_leaves_a_checkpoint(data, tmp_path, monkeypatch, whole):
    """In the middle; and at the last checkpoint, after which there is no step that could tell."""
    run = Run.create(tmp_path / "run", ASYNC)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "_seal", _after(whole, checkpoints_module._seal, _full))
        message = rf"step-0000000{2 * whole + 2}: could not be written \(No space left on device\)"
        with pytest.raises(PaucaError, match=message):
            train(fresh(), ASYNC, data, run)
    assert checkpoints(run.checkpoints)[-1].name == f"step-0000000{2 * whole}"
    assert train(fresh(), ASYNC, data, run, resume=True).best_step


def test_a_divergence_waits_for_the_checkpoint_that_it_names(data, tmp_path, monkeypatch):
    run, model, calls, seal = Run.create(tmp_path / "run", ASYNC), fresh(), iter(range(100)), checkpoints_module._seal
    model.norm.register_forward_hook(
        lambda module, inputs, output: output * math.inf if module.training and next(calls) >= 4 else output
    )

    def slow(*arguments: Any) -> None:
        threading.Event().wait(1.0)
        seal(*arguments)

    monkeypatch.setattr(checkpoints_module, "_seal", slow)
    with pytest.raises(Diverged, match=r"step 5: loss nan.*the last good checkpoint is .*step-00000004"):
        train(model, ASYNC, data, run)


def _on_two(rank: int, path: Path, data: TokenData, ep: int, background: bool) -> TrainResult:
    config = replace(CONFIG, ep=ep, checkpoint_async=background)
    return train(fresh(), config, data, Run(path))


@pytest.mark.parametrize("ep", [1, 2])
def test_two_ranks_write_what_they_would_have_waited_for(data, tmp_path, together, ep):
    found = []
    for background in (False, True):
        run = Run.create(tmp_path / str(background), CONFIG)
        results = together(_on_two, 2, run.path, data, ep, background)
        assert results[0] == results[1]
        found.append((results[0], [stored(path, data) for path in checkpoints(run.checkpoints)]))
    assert found[0][0] == found[1][0]
    assert len(found[0][1]) == 2
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert_same(one, other)


def _full_on_one(rank: int, path: Path, data: TokenData) -> str:
    """The second rank's disk is full at its second checkpoint."""
    if rank == 1:
        checkpoints_module._seal = _after(1, checkpoints_module._seal, _full)
    with pytest.raises(PaucaError) as found:
        train(fresh(), ASYNC, data, Run(path))
    return str(found.value) if not isinstance(found.value, OtherStopped) else "another"


def test_one_rank_with_a_full_disk_leaves_the_checkpoint_before(data, tmp_path, together):
    run = Run.create(tmp_path / "run", ASYNC)
    said = together(_full_on_one, 2, run.path, data, only=1)
    assert "could not be written (No space left on device); step-00000002 is whole" in said[0]
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000002"]
    assert train(fresh(), CONFIG, data, run, resume=True).best_step


def _fails(error: Exception) -> Callable[..., None]:
    def write(*_: Any) -> None:
        raise error

    return write


GLOO = "[enforce fail at pair.cc:547] . Connection closed by peer [127.0.0.1]:4242.\nframe #0: c10::Error"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PaucaError("it could not be written"), "it could not be written"),
        (RuntimeError(GLOO), "rank 0 stops, because another rank has; that one says why, unless it was killed"),
        (
            RuntimeError("an odd thing\nframe #0"),
            "/step-00000007: could not be written (an odd thing); go on from the last one with --resume (in "
            "Python resume=True)",
        ),
    ],
)
def test_what_goes_wrong_is_said_in_one_line_and_keeps_its_cause(tmp_path, monkeypatch, error, message):
    error.__cause__ = cause = OSError("why")
    monkeypatch.setattr("pauca.runs.background.write_checkpoint", _fails(error))
    background = BackgroundCheckpoints()
    background.save(tmp_path, 7, {"step": 7}, {}, 1)
    with pytest.raises(PaucaError) as found:
        background.wait()
    assert str(found.value).removeprefix(str(tmp_path)) == message
    assert found.value.__cause__ is (cause if found.value is error else error)


def test_a_training_that_cannot_begin_leaves_warnings_as_they_were(data, tmp_path, monkeypatch):
    def missing(*_: Any) -> None:
        raise ConfigError("tensorboard is not installed")

    monkeypatch.setattr("pauca.runs.loop._tensorboard", missing)
    config, before = replace(ASYNC, tensorboard=True), list(warnings.filters)
    with pytest.raises(ConfigError) as found:  # whose traceback holds on to all that was begun
        train(fresh(), config, data, Run.create(tmp_path / "run", config))
    assert warnings.filters == before, found


def _groups(rank: int, folder: Path) -> tuple[int, int]:
    with BackgroundCheckpoints() as background:
        within = len(torch.distributed.distributed_c10d._world.pg_map)
        background.save(folder, 1, {"step": 1}, {}, 1)
    return within, len(torch.distributed.distributed_c10d._world.pg_map)


def test_the_group_of_ranks_ends_with_the_training(tmp_path, together):
    assert together(_groups, 2, tmp_path) == [(2, 1), (2, 1)]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]


def _left_by(error: Exception, folder: Path) -> threading.Thread:
    """The thread that writes, after an error left the room of background checkpoints of several ranks."""
    background = BackgroundCheckpoints()
    background._group = object()  # as of several ranks

    def stop() -> None:
        with background:
            background.save(folder, 1, {"step": 1}, {}, 1)
            raise error

    with pytest.raises(type(error), match=str(error)):
        stop()
    assert background._thread is not None
    return background._thread


def test_an_error_leaves_no_thread_that_writes_on_in_a_folder_without_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("pauca.runs.background.write_checkpoint", lambda *_: time.sleep(0.3))
    assert not _left_by(ValueError("of this rank's own"), tmp_path).is_alive()


def test_a_rank_that_is_gone_is_not_waited_for_long(tmp_path, monkeypatch):
    """An error on its way out must not wait for a message that never comes."""
    forever = threading.Event()
    monkeypatch.setattr("pauca.runs.background._LEAVE_S", 0.1)
    monkeypatch.setattr("pauca.runs.background.write_checkpoint", lambda *_: forever.wait(60))
    assert _left_by(OtherStopped("rank 1 is gone"), tmp_path).is_alive()
    forever.set()
