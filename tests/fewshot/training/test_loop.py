"""A training from end to end: it repeats, resumes bit for bit, and leaves what it says."""

import dataclasses
import math
import sys

import pytest
import torch

from pauca.errors import InputError, PaucaError
from pauca.fewshot.model import MCRNet
from pauca.fewshot.training.loop import train
from pauca.fewshot.training.trainer import Trainer
from pauca.runs import Run

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


def test_a_resumed_run_ends_bit_for_bit_where_an_unbroken_one_does(images, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[train.__module__], "_LOG_EVERY", 1)
    unbroken = Run.create(tmp_path / "unbroken", CONFIG)
    whole = train(fresh(), CONFIG, images, images, unbroken)
    broken = Run.create(tmp_path / "broken", CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step
        patch.setattr(Trainer, "step", lambda trainer: step(trainer) if trainer.steps_done < 4 else _stop())
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), CONFIG, images, images, broken)
    resumed = train(fresh(), CONFIG, images, images, broken, resume=True)

    assert resumed.best_step == whole.best_step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    last = [(run.checkpoints / "last.safetensors").read_bytes() for run in (unbroken, broken)]
    assert last[0] == last[1]
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


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(images, monkeypatch):
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer: dataclasses.replace(step(trainer), kl=torch.tensor(math.inf)))
    with pytest.raises(PaucaError, match="not finite at step 6"):
        train(fresh(), CONFIG, images)


def test_data_that_changed_are_not_gone_on_with(images, tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    train(fresh(), dataclasses.replace(CONFIG, steps=3), images, run=run)
    changed = dataclasses.replace(images, images=images.images.flip(-1))
    with pytest.raises(InputError, match=r"last\.safetensors: was trained on other images"):
        train(fresh(), CONFIG, changed, run=run, resume=True)
