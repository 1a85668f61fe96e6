"""The scale of a base learner's scores."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pauca.fewshot.embedding import embed_images
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig, episode_cross_entropy
from pauca.fewshot.training.confidence import fit_scale
from pauca.fewshot.types import Episodes, ImageSet

FLAT = ModelConfig("custom", "cosine", image_size=16, latent=LatentConfig(mode="none"), center_features=1.0)


@torch.no_grad()
def loss(model: MCRNet, images: ImageSet, episodes: Episodes) -> float:
    features = embed_images(model, images)
    logits = model.classify(features[episodes.support], episodes.support_labels, features[episodes.query], episodes.way)
    return float(episode_cross_entropy(logits, episodes.query_labels, 0.0))


@pytest.mark.parametrize("start", [0.1, 1000.0])
def test_the_scale_makes_the_labels_likeliest_and_accuracy_stays(toy_images, toy_episodes, start):
    noise = torch.randint(0, 256, toy_images.images.shape, generator=torch.Generator().manual_seed(1))
    images = replace(toy_images, images=(0.3 * toy_images.images + 0.7 * noise).to(torch.uint8))
    model = MCRNet(FLAT, backbone=nn.Flatten())
    model.learn_center(images.images)
    model.base_learner.scale.data.fill_(start)
    before = evaluate(model, images, toy_episodes)
    fit_scale(model, images, toy_episodes)
    assert (evaluate(model, images, toy_episodes).episode_accuracy == before.episode_accuracy).all()
    fitted, scale = loss(model, images, toy_episodes), model.base_learner.scale.item()
    for factor in (1 / 1.2, 1.2):
        model.base_learner.scale.data.fill_(factor * scale)
        assert fitted < loss(model, images, toy_episodes)


def test_a_base_learner_without_a_scale_is_left_alone(toy_images, toy_episodes):
    model = MCRNet(FLAT, backbone=nn.Flatten(), base_learner=nn.Identity())
    fit_scale(model, toy_images, toy_episodes)
