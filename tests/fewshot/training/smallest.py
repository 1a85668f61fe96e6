"""The smallest meta-training there is: a model and a configuration."""

import torch

from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.types import EpisodeConfig

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


def fresh(config: ModelConfig = MODEL) -> MCRNet:
    torch.manual_seed(0)
    return MCRNet(config)
