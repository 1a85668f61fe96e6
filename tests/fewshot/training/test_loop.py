"""A training from end to end: it repeats, resumes bit for bit, and leaves what it says."""

import dataclasses
import errno
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pauca.errors import ConfigError, PaucaError
from pauca.fewshot.model import Losses, MCRNet
from pauca.fewshot.training.loop import TrainResult, _MetaTraining, train
from pauca.fewshot.training.trainer import Trainer
from pauca.fewshot.types import ImageSet
from pauca.runs import Run
from pauca.runs import checkpoints as checkpoints_module
from pauca.runs.checkpoints import checkpoints
from pauca.runs.divergence import Diverged

from ...runs.killing import CHECKPOINT_MOMENTS, in_another_process, kill_at
from .smallest import CONFIG, fresh


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generators(images):
    results = []
    for disturbance in (1, 2):
        model = fresh()
        torch.manual_seed(disturbance)
        results.append(train(model, CONFIG, images).model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    other = train(fresh(), dataclasses.replace(CONFIG, seed=1), images).model.state_dict()
    assert not torch.equal(results[0]["stem.mu.weight"], other["stem.mu.weight"])


def test_a_resumed_run_ends_bit_for_bit_where_an_unbroken_one_does(images, tmp_path):
    config = dataclasses.replace(CONFIG, log_every=1)
    unbroken = Run.create(tmp_path / "unbroken", config)
    whole = train(fresh(), config, images, images, unbroken)
    broken = Run.create(tmp_path / "broken", config)
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step
        patch.setattr(Trainer, "step", lambda trainer: step(trainer) if trainer.steps_done < 4 else _stop())
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), config, images, images, broken)
    resumed = train(fresh(), config, images, images, broken, resume=True)

    assert resumed.best_step == whole.best_step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    best = [(run.checkpoints / "best.safetensors").read_bytes() for run in (unbroken, broken)]
    assert best[0] == best[1]
    assert (resumed.validation.episode_accuracy == whole.validation.episode_accuracy).all()
    # Step 4 was logged after the checkpoint of step 3 and is taken again; it may be there once only.
    logged = [[line | {"time": 0} for line in run.metrics()] for run in (unbroken, broken)]
    assert logged[0] == logged[1]


def _stop() -> None:
    raise KeyboardInterrupt


def test_checkpoints_and_metrics_are_written(images, tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    result = train(fresh(), CONFIG, images, images, run)
    validated = [line for line in run.metrics() if "validation_accuracy" in line]
    assert [line["step"] for line in validated] == [3, 6]
    assert max(line["validation_accuracy"] for line in validated) == result.validation.accuracy.mean
    best = MCRNet.load(run.checkpoints / "best.safetensors")
    assert all(torch.equal(value, result.model.state_dict()[name]) for name, value in best.state_dict().items())
    assert next(line for line in run.metrics() if "kl" in line)["step"] == 6


def test_without_validation_the_last_step_is_kept(images):
    result = train(fresh(), CONFIG, images)
    assert (result.validation, result.best_step) == (None, 6)


SHORT = dataclasses.replace(CONFIG, log_every=1, validate_every=2)
# When to kill: what is called, which call, before or after it; and the last step whose checkpoint survives.
MOMENTS = {
    "between steps": ("pauca.fewshot.training.trainer.Trainer.step", 4, False, 2),
    "within a step": ("torch.optim.SGD.step", 4, False, 2),
    "after a step": ("pauca.fewshot.training.trainer.Trainer.step", 5, True, 4),
    **CHECKPOINT_MOMENTS,
    "while the best weights are written": ("pauca.runs.tensors.save_file", 1, True, 0),
    "after the best weights": ("pauca.fewshot.model.MCRNet.save", 1, True, 0),
}


def run_to_end(path: Path, images: ImageSet, resume: bool = False) -> tuple[TrainResult, Run]:
    run = Run.create(path, SHORT, resume=resume)
    return train(fresh(), SHORT, images, images, run, resume), run


def _train_until_killed(path: Path, images: ImageSet, target: str, call: int, after: bool) -> None:
    kill_at(target, call, after)
    run_to_end(path, images)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Any:
    results = {}

    def run(images: ImageSet) -> tuple[TrainResult, Run]:
        if not results:
            results[0] = run_to_end(tmp_path_factory.mktemp("unbroken") / "run", images)
        return results[0]

    return run


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_bit_for_bit(moment, unbroken, images, tmp_path):
    target, call, after, survives = MOMENTS[moment]
    path = tmp_path / "run"
    assert in_another_process(_train_until_killed, path, images, target, call, after) == -signal.SIGKILL
    left = checkpoints(Run(path).checkpoints)
    assert (int(left[-1].name.removeprefix("step-")) if left else 0) == survives
    (whole, run), (result, again) = unbroken(images), run_to_end(path, images, resume=True)
    assert result.best_step == whole.best_step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name]), name
    logged = [[line | {"time": 0} for line in each.metrics()] for each in (run, again)]
    assert logged[0] == logged[1]
    assert not [file.name for file in again.checkpoints.iterdir() if file.name.startswith(".step")]


def test_other_settings_and_other_images_cannot_be_resumed(images, tmp_path):
    _, run = run_to_end(tmp_path / "run", images)
    with pytest.raises(ConfigError, match=r"train\.learning_rate 0\.1, but now train\.learning_rate is 0\.2"):
        train(fresh(), dataclasses.replace(SHORT, learning_rate=0.2), images, images, run, resume=True)
    other = dataclasses.replace(images, images=255 - images.images)
    with pytest.raises(ConfigError, match="written with the training images"):
        train(fresh(), SHORT, other, images, run, resume=True)
    with pytest.raises(ConfigError, match="written with the validation images"):
        train(fresh(), SHORT, images, other, run, resume=True)


def test_a_run_of_the_first_version_is_not_begun_anew_in_silence(images, tmp_path):
    run = Run.create(tmp_path / "run", SHORT)
    (run.checkpoints / "last.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"last\.safetensors: a checkpoint of pauca 0\.1"):
        train(fresh(), SHORT, images, images, run, resume=True)


def test_a_full_disk_stops_in_one_line_and_leaves_a_checkpoint(images, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", SHORT)
    seal, calls = checkpoints_module._seal, iter(range(10))

    def full(*arguments: Any) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        seal(*arguments)

    monkeypatch.setattr(checkpoints_module, "_seal", full)
    with pytest.raises(PaucaError, match=r"step-00000004: could not be written \(No space left on device\)"):
        train(fresh(), SHORT, images, images, run)
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000002"]


def test_when_the_time_is_up_a_run_can_go_on(images, tmp_path, unbroken):
    run = Run.create(tmp_path / "run", SHORT)
    result = train(fresh(), SHORT, images, images, run, minutes=1e-9)
    assert not result.is_finished
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000001"]
    again = train(fresh(), SHORT, images, images, run, resume=True)
    assert again.is_finished
    assert max(line["step"] for line in run.metrics()) == 6
    with pytest.raises(ConfigError, match="minutes 0"):
        train(fresh(), SHORT, images, images, minutes=0.0)


def test_a_loss_that_is_not_finite_stops_the_training_and_says_where_it_comes_from(images, tmp_path):
    model, calls = fresh(), iter(range(100))
    model.backbone.layers[0].register_forward_hook(
        lambda module, inputs, output: output * math.inf if module.training and next(calls) >= 5 else output
    )
    run = Run.create(tmp_path / "run", SHORT)
    words = r"step 3: the loss or a gradient is not finite\. .*the output of backbone\.layers\.0\. .*step-00000002"
    with pytest.raises(Diverged, match=words):
        train(model, SHORT, images, images, run)
    assert all(weight.isfinite().all() for weight in model.parameters())  # from before the step


def test_a_loss_that_is_not_finite_is_found_in_the_step_that_it_came_in(images, monkeypatch):
    """As on a GPU, where several steps are queued before their losses are looked at."""
    step = Trainer.step

    def spoilt(trainer: Trainer) -> Losses:
        losses = step(trainer)
        return dataclasses.replace(losses, kl=torch.tensor(math.inf)) if trainer.steps_done == 3 else losses

    monkeypatch.setattr(Trainer, "step", spoilt)
    training = _MetaTraining(Trainer(fresh(), images, CONFIG), None)
    with pytest.raises(Diverged, match=r"step 3: the loss or a gradient is not finite \(.*kl inf"):
        training.check([training.step() for _ in range(5)])


def test_a_loss_that_leaps_up_stops_the_training(images, monkeypatch):
    step = Trainer.step

    def spoilt(trainer: Trainer) -> Losses:
        return dataclasses.replace(step(trainer), cross_entropy=torch.tensor(1.0 + 20 * (trainer.steps_done > 12)))

    monkeypatch.setattr(Trainer, "step", spoilt)
    with pytest.raises(Diverged, match=r"step 15: the cross entropy leapt from 1\.000 to 7\.000 nats"):
        train(fresh(), dataclasses.replace(CONFIG, steps=20, validate_every=20), images)
