"""A training by the recipe `strong` from end to end: it learns, repeats, resumes, and leaves others alone."""

from dataclasses import replace

import pytest
import torch

from pauca.errors import ConfigError
from pauca.fewshot.model import MCRNet
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.loop import last_state
from pauca.fewshot.training.strong import STRONG, StrongConfig
from pauca.fewshot.training.strong_trainer import StrongTrainer, train_strong
from pauca.fewshot.types import EpisodeConfig
from pauca.fewshot.views_at_test import ViewsAtTest
from pauca.runs import Run

MODEL = replace(STRONG.model, backbone="conv4-32", image_size=16)
STRONG_CONFIG = StrongConfig(images_per_step=6, views=4, negatives=20)
CONFIG = replace(
    STRONG.train,
    steps=3,
    episode=EpisodeConfig(way=3, shot=1, query=2),
    augmentation=AugmentConfig(crop_padding=1),
    validate_every=2,
    validation_shot=2,
    validation_episodes=6,
    device="cpu",
)


def fresh() -> MCRNet:
    torch.manual_seed(0)
    return MCRNet(MODEL)


def test_it_learns_the_base_classes(images):
    config = replace(CONFIG, steps=60, augmentation=AugmentConfig(crop_padding=1, jitter=0.0, flip=False))
    strong = replace(STRONG_CONFIG, images_per_step=12)
    trainer = StrongTrainer(fresh(), images, config, strong)
    losses = [trainer.step() for _ in range(60)]
    first, last = (sum(float(step.cross_entropy) for step in part) for part in (losses[:5], losses[-5:]))
    assert last < 0.6 * first
    assert float(sum(step.accuracy for step in losses[-5:])) / 5 > 0.5  # of 8 classes


def test_a_resumed_run_ends_where_an_unbroken_one_does(images, tmp_path):
    """Stopped after step 5 of 6, in the second generation, it goes on from the checkpoint of step 4."""
    unbroken = Run.create(tmp_path / "unbroken", CONFIG)
    whole = train_strong(fresh(), CONFIG, STRONG_CONFIG, images, images, unbroken)
    for stopped_at in (3, 5):
        broken = Run.create(tmp_path / f"broken-{stopped_at}", CONFIG)
        with pytest.MonkeyPatch.context() as patch:
            step = StrongTrainer.step

            def stopping(trainer, step=step, last=stopped_at):
                return step(trainer) if trainer.steps_done < last else _stop()

            patch.setattr(StrongTrainer, "step", stopping)
            with pytest.raises(KeyboardInterrupt):
                train_strong(fresh(), CONFIG, STRONG_CONFIG, images, images, broken)
        resumed = train_strong(fresh(), CONFIG, STRONG_CONFIG, images, images, broken, resume=True)
        assert resumed.best_step == whole.best_step
        last = [last_state(run) for run in (unbroken, broken)]
        assert last[0].keys() == last[1].keys()
        assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())


def _stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_next_generation_is_taught_by_what_is_kept_of_the_one_before(images, average):
    trainer = StrongTrainer(fresh(), images, CONFIG, replace(STRONG_CONFIG, average=average))
    assert [float(trainer.step().distillation) for _ in range(3)] == [0, 0, 0]
    rates = [trainer.learning_rate]
    weights = {name: value.clone() for name, value in trainer.averaged.state_dict().items()}
    assert float(trainer.step().distillation) > 0
    assert trainer.teacher is not None
    assert not trainer.teacher.training
    for name, value in trainer.teacher.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    rates.append(trainer.learning_rate)
    # The last tenth of the rate is too short for 3 steps; the next generation has half of it.
    assert rates == pytest.approx([0.05, 0.5 * 0.05])


def test_the_kept_weights_are_a_running_mean(images):
    """Of a decay that the first steps shorten: 2/11, 3/12, 4/13 of the old value are kept."""
    trainer = StrongTrainer(fresh(), images, CONFIG, replace(STRONG_CONFIG, average=0.27))
    name = "encoder.backbone.layers.0.weight"
    mean = trainer.averaged.state_dict()[name].clone()
    for kept in (2 / 11, 3 / 12, 0.27):
        trainer.step()
        mean = kept * mean + (1 - kept) * trainer.network.state_dict()[name]
        torch.testing.assert_close(trainer.averaged.state_dict()[name], mean)
    assert not torch.equal(mean, trainer.network.state_dict()[name])
    assert trainer.model is trainer.averaged.encoder


def test_without_a_mean_the_last_weights_are_kept(images):
    trainer = StrongTrainer(fresh(), images, CONFIG, replace(STRONG_CONFIG, average=0.0))
    trainer.step()
    assert trainer.averaged is trainer.network
    assert not any(name.startswith("trained.") for name in trainer.state())


def test_the_saved_model_knows_how_sure_it_is(images, tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    result = train_strong(fresh(), CONFIG, STRONG_CONFIG, images, images, run)
    saved = MCRNet.load(run.checkpoints / "best.safetensors")
    assert saved.base_learner.scale.item() == pytest.approx(result.model.base_learner.scale.item())
    assert saved.base_learner.scale.item() != 10.0  # as cosines are born


def test_the_callers_random_numbers_are_left_alone(images):
    model = fresh()
    before = torch.get_rng_state()
    train_strong(model, replace(CONFIG, steps=1), replace(STRONG_CONFIG, generations=1), images)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_is_centered_by_the_base_classes(images, tmp_path):
    result = train_strong(fresh(), CONFIG, STRONG_CONFIG, images)
    model = result.model.eval()
    assert model.feature_mean.abs().sum() > 0
    assert not torch.equal(model.whitening, torch.eye(len(model.whitening)))
    with torch.no_grad():
        features = model.embed(images.images, views=ViewsAtTest(mirror=True))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    model.save(tmp_path / "model.safetensors")
    again = MCRNet.load(tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again.embed(images.images, views=ViewsAtTest(mirror=True)), features)


def test_too_few_images_and_several_processes_are_refused(images, monkeypatch):
    with pytest.raises(ConfigError, match="192 images are fewer than the 500 of a step; lower images_per_step"):
        StrongTrainer(fresh(), images, CONFIG, replace(STRONG_CONFIG, images_per_step=500))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="trains on one GPU"):
        StrongTrainer(fresh(), images, CONFIG, STRONG_CONFIG)
