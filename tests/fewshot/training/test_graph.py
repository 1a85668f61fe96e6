"""A captured pass is the pass: the same losses, gradients, running statistics and random numbers."""

import dataclasses

import pytest
import torch

from pauca.fewshot.base_learners import BASE_LEARNERS, make_base_learner
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.graph import can_be_captured
from pauca.fewshot.training.trainer import Trainer
from pauca.fewshot.types import EpisodeConfig, ImageSet

CONFIG = TrainConfig(
    steps=8,
    episodes_per_step=4,
    episode=EpisodeConfig(way=3, shot=1, query=2),
    augmentation=AugmentConfig(crop_padding=1, turned_classes=0.3),
    learning_rate=0.01,
    device="cuda",
    compile="off",
)


def test_heads_that_iterate_until_converged_are_not_captured():
    assert {name for name in BASE_LEARNERS if not can_be_captured(make_base_learner(name))} == {"svm", "logistic"}
    assert not can_be_captured(torch.nn.Identity())  # someone else's: unknown


def trained(images: ImageSet, base_learner: str, config: TrainConfig, steps: int) -> tuple[Trainer, list[float]]:
    torch.manual_seed(0)
    latent = LatentConfig(mode="variational", warm_up_steps=4)
    model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16, latent=latent, base_learner=base_learner))
    trainer = Trainer(model, images, config)
    return trainer, [float(trainer.step().total) for _ in range(steps)]


@pytest.fixture
def _repeatable_kernels(monkeypatch):
    """cuDNN's fastest kernels add in the order in which threads arrive: two eager trainings then differ from each other
    as much as a captured one does from them (three times the former bound, in the momenta, after six steps)."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.usefixtures("_repeatable_kernels")
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("base_learner", ["ridge", "prototypes", "cosine"])
@pytest.mark.parametrize("episodes_per_pass", [4, 2])
def test_captured_training_is_eager_training(toy_images, base_learner, episodes_per_pass):
    config = dataclasses.replace(CONFIG, episodes_per_pass=episodes_per_pass, precision="float32")
    captured, losses = trained(toy_images, base_learner, config, 6)
    eager, expected = trained(toy_images, base_learner, dataclasses.replace(config, cuda_graph=False), 6)
    assert captured._captured is not None
    assert eager._captured is None
    assert losses == expected
    for name, value in captured.state().items():
        torch.testing.assert_close(value, eager.state()[name], rtol=0, atol=0, msg=name)


@pytest.mark.gpu
def test_a_resumed_captured_run_goes_on_as_an_unbroken_one(toy_images):
    unbroken, losses = trained(toy_images, "ridge", CONFIG, 6)
    first, _ = trained(toy_images, "ridge", CONFIG, 3)
    second, _ = trained(toy_images, "ridge", CONFIG, 1)  # captured before the state is loaded: it must read it
    second.load_state(first.state())
    torch.testing.assert_close([float(second.step().total) for _ in range(3)], losses[3:], rtol=1e-2, atol=1e-3)
    assert unbroken.steps_done == second.steps_done
