"""Training: it learns, repeats, resumes bit for bit, and is the same with two processes as with one."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
import yaml
from torch import distributed as dist

from pauca.errors import ConfigError, PaucaError
from pauca.fewshot.augment import AugmentConfig
from pauca.fewshot.data import read_images, read_split_lists
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluate import compare, evaluate
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.train import (
    PROTOCOLS,
    TrainConfig,
    Trainer,
    Workers,
    channel_statistics,
    train,
)
from pauca.fewshot.types import EpisodeConfig, ImageSet
from pauca.runs import Run, from_dict, to_yaml

# One MCRNet as small as it gets, with every source of noise that a resumed run must repeat.
MODEL = ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="variational", warm_up_steps=4))
CONFIG = TrainConfig(
    steps=6,
    episodes_per_step=2,
    episode=EpisodeConfig(way=3, shot=1, query=2),
    augmentation=AugmentConfig(crop_padding=1, turned_classes=0.3),
    validate_every=3,
    validation_shot=2,
    validation_episodes=10,
    device="cpu",
)


@pytest.fixture
def images(toy_images) -> ImageSet:
    """The toy images, of which an episode of the validation asks 17 of a class: each one twice."""
    return dataclasses.replace(
        toy_images, images=toy_images.images.repeat(2, 1, 1, 1), labels=toy_images.labels.repeat(2)
    )


def fresh(config: ModelConfig = MODEL) -> MCRNet:
    torch.manual_seed(0)
    return MCRNet(config)


def test_learning_rate_follows_the_published_phases():
    config = PROTOCOLS["cifar-fs"].train
    phases = {0: 0.1, 19_999: 0.1, 20_000: 0.006, 39_999: 0.006, 40_000: 0.0012, 50_000: 0.00024, 59_999: 0.00024}
    for step, rate in phases.items():
        assert config.learning_rate_at(step) == pytest.approx(rate)


def test_cosine_schedule_falls_from_the_full_rate_to_almost_none():
    config = TrainConfig(steps=1000, schedule="cosine")
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == config.learning_rate
    assert rates[500] == pytest.approx(config.learning_rate / 2)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-3 * config.learning_rate


@pytest.mark.parametrize("schedule", ["cosine", ((0.0, 1.0), (0.5, 0.1))])
def test_a_schedule_is_the_same_after_a_file(schedule):
    config = TrainConfig(schedule=schedule)
    assert from_dict(TrainConfig, yaml.safe_load(to_yaml(config))) == config


def test_protocols_are_the_papers():
    facts = {
        name: (p.model.base_learner, p.train.episode.shot, p.train.label_smoothing) for name, p in PROTOCOLS.items()
    }
    assert facts == {
        "cifar-fs": ("ridge", 5, 0.0),
        "fc100": ("ridge", 15, 0.0),
        "miniimagenet": ("svm", 15, 0.1),
        "tieredimagenet": ("svm", 10, 0.0),
    }
    for protocol in PROTOCOLS.values():
        assert (protocol.train.episode.way, protocol.train.episode.query, protocol.train.episodes_per_step) == (5, 6, 8)
        assert protocol.train.augmentation.crop_padding == (8 if protocol.model.image_size == 84 else 4)


def test_statistics_are_those_of_all_pixels():
    images = torch.randint(0, 256, (2500, 3, 4, 4), dtype=torch.uint8)
    mean, deviation = channel_statistics(images)
    values = images.double() / 255
    torch.testing.assert_close(mean.double(), values.mean((0, 2, 3)))
    torch.testing.assert_close(deviation.double(), values.std((0, 2, 3), correction=0))


def test_training_learns_the_toy_classes(images):
    config = dataclasses.replace(CONFIG, steps=1000, augmentation=AugmentConfig(crop_padding=1, jitter=0.0, flip=False))
    trainer = Trainer(fresh(dataclasses.replace(MODEL, base_learner="prototypes")), images, config)
    losses = [float(trainer.step().cross_entropy) for _ in range(20)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


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


def test_gradients_of_passes_add_up_to_that_of_all_episodes_at_once(images):
    """Without batch norm, noise and augmentation it makes no difference how episodes are spread over passes."""
    weights = []
    for per_pass in (1, 2, 4):
        torch.manual_seed(0)
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 8))
        model = MCRNet(ModelConfig(image_size=16, latent=LatentConfig(mode="none")), backbone=linear)
        config = dataclasses.replace(
            CONFIG,
            episodes_per_step=4,
            episodes_per_pass=per_pass,
            augmentation=AugmentConfig(crop_padding=0, jitter=0.0, flip=False),
        )
        trainer = Trainer(model, images, config)
        trainer.step()
        weights.append(linear[1].weight.detach())
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])


def _work(rank: int, folder, images: ImageSet) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainer = Trainer(fresh(), images, CONFIG)
    losses = torch.stack([trainer.step().total for _ in range(3)])
    trainer.workers.average([losses])
    if rank == 0:
        torch.save({"losses": losses, "weights": trainer.state()}, folder / "result.pt")
    else:
        trainer.state()  # averages the running statistics, which takes both
    dist.destroy_process_group()


def test_two_processes_train_as_one(images, tmp_path):
    mp.start_processes(_work, (tmp_path, images), nprocs=2, start_method="fork")
    together = torch.load(tmp_path / "result.pt")
    alone = Trainer(fresh(), images, CONFIG)
    losses = torch.stack([alone.step().total for _ in range(3)])
    torch.testing.assert_close(together["losses"], losses)
    state = alone.state()
    for name, value in together["weights"].items():
        if "running" not in name and "tracked" not in name:  # each process has statistics of its own passes
            torch.testing.assert_close(value, state[name], msg=name)


def test_variable_way_and_unbalanced_shots_train(images):
    shape = EpisodeConfig(way=(2, 4), shot=(1, 3), query=2, unbalanced=True)
    trainer = Trainer(fresh(), images, dataclasses.replace(CONFIG, episode=shape, label_smoothing=0.1))
    assert all(torch.isfinite(trainer.step().total) for _ in range(3))


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(images, monkeypatch):
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer: dataclasses.replace(step(trainer), kl=torch.tensor(math.inf)))
    with pytest.raises(PaucaError, match="not finite at step 6"):
        train(fresh(), CONFIG, images)


def test_episodes_that_cannot_be_shared_are_refused(images):
    with pytest.raises(ConfigError, match="2 episodes a step cannot be shared evenly by 3 processes"):
        Trainer(fresh(), images, CONFIG, Workers(0, 3))
    with pytest.raises(ConfigError, match="with 4 episodes a pass"):
        Trainer(fresh(), images, dataclasses.replace(CONFIG, episodes_per_pass=4))


def test_settings_out_of_range_are_refused():
    for wrong, words in (
        ({"steps": 0}, "at least 1"),
        ({"schedule": ((0.5, 1.0),)}, "phases that begin at 0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ):
        with pytest.raises(ConfigError, match=words):
            TrainConfig(**wrong)


_ONE_GRAPH = """
import torch
from pauca.fewshot.augment import AugmentConfig, augment
from pauca.fewshot.backbones import set_training_step
from pauca.fewshot.model import MCRNet, ModelConfig
model = MCRNet(ModelConfig(image_size=16)).train()
encode = torch.compile(lambda x: model.encode(augment(x, AugmentConfig())), fullgraph=True, backend="aot_eager")
for step in (0, 40_000):
    set_training_step(model, step)
    encode(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)).features.sum().backward()
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_augmentation_and_network_are_one_graph_that_is_compiled_once():
    """A break or a new graph at every step would cost a GPU most of its rate.

    In a process of its own, because the compiler cannot trace the type checks that tests run with.
    """
    done = subprocess.run([sys.executable, "-c", _ONE_GRAPH], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr[-2000:]


@pytest.mark.realdata
@pytest.mark.slow
def test_tiny_imagenet_is_learned(pauca_data):
    """100 steps of two episodes lift new classes far above chance (20 %) and above raw pixels, on the same episodes."""
    folder = pauca_data / "fewshot"
    lists = read_split_lists(folder / "splits" / "tiny-imagenet-200")
    everything = read_images(folder / "tiny-imagenet-200-first120.zip", size=16)
    train_images, test_images = (everything.only(lists.classes[split], split) for split in ("train", "test"))
    config = dataclasses.replace(CONFIG, episode=EpisodeConfig(way=5, shot=5, query=6), augmentation=AugmentConfig(2))
    model = fresh(ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="deterministic")))
    trainer = Trainer(model, train_images, dataclasses.replace(config, steps=100))
    for _ in range(100):
        trainer.step()
    flat = ModelConfig(base_learner="prototypes", image_size=16, latent=LatentConfig(mode="none"))
    episodes = sample_episodes(test_images, EpisodeConfig(way=5, shot=5, query=15), 200, seed=0)
    learned = evaluate(model, test_images, episodes)
    pixels = evaluate(MCRNet(flat, backbone=torch.nn.Flatten()), test_images, episodes)
    assert learned.accuracy.mean > 0.3
    assert compare(learned, pixels).difference.mean > compare(learned, pixels).difference.half_width
