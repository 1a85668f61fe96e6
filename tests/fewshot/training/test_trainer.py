"""One step of training: it learns, and is the same with two processes as with one."""

import dataclasses
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from pauca.errors import ConfigError
from pauca.fewshot.data import read_split_lists
from pauca.fewshot.data.cifar import read_cifar100
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.evaluation import compare, evaluate
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.trainer import Trainer, Workers, channel_statistics
from pauca.fewshot.types import EpisodeConfig, ImageSet

from .smallest import CONFIG, MODEL, fresh


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


def test_episodes_that_cannot_be_shared_are_refused(images):
    with pytest.raises(ConfigError, match="2 episodes a step cannot be shared evenly by 3 ranks"):
        Trainer(fresh(), images, CONFIG, Workers(0, 3))
    with pytest.raises(ConfigError, match="with 4 episodes a pass"):
        Trainer(fresh(), images, dataclasses.replace(CONFIG, episodes_per_pass=4))


_ONE_GRAPH = """
import torch
from pauca.fewshot.training.augment import AugmentConfig, augment
from pauca.fewshot.backbones import set_training_step
from pauca.fewshot.model import MCRNet, ModelConfig
model = MCRNet(ModelConfig(image_size=16)).train()
config = AugmentConfig(crop_padding=2, flip=True)
encode = torch.compile(lambda x: model.encode(augment(x, config)), fullgraph=True, backend="aot_eager")
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
def test_cifar_fs_is_learned(pauca_data):
    """100 steps of two episodes lift new classes far above chance (20 %) and above raw pixels, on the same episodes."""
    folder = pauca_data / "fewshot"
    lists = read_split_lists(folder / "splits" / "cifar-fs")
    everything = read_cifar100(folder / "cifar100").images
    places = torch.cat([(everything.labels == label).nonzero()[:60, 0] for label in range(100)])
    some = everything.at(places.tolist())
    halved = torch.nn.functional.avg_pool2d(some.images.float(), 2).round().to(torch.uint8)
    some = dataclasses.replace(some, images=halved)
    train_images, test_images = (some.only(lists.classes[split], split) for split in ("train", "test"))
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


@pytest.mark.parametrize("name", ["center_features", "whiten_features"])
def test_features_are_not_scaled_by_what_no_episode_learns(images, name):
    model = fresh(dataclasses.replace(MODEL, **{name: 0.5}))
    with pytest.raises(ConfigError, match=rf"{name} 0\.5: only the recipe strong learns it"):
        Trainer(model, images, CONFIG)
