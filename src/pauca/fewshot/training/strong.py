"""The recipe `strong`: one network that tells all base classes apart, in many views, then teaches itself once more.

In each step every image is seen in several views. The network is told the class of each view (cross-entropy over all
base classes at once), which view it is (Gidaris et al., Rizve et al.), and that views of one image are one thing
(`bank.contrast`). A second generation starts from the first one's weights and is also told what the first one answers
to the same pixels: classes, views (softened) and features (Furlanello et al., Tian et al., Rajasegaran et al.). At test
time features are centered by half of the base classes' mean, have length one (`ModelConfig.center_features`), and stand
beside themselves, whitened by what varies within the base classes (`ModelConfig.whiten_features`).

None of this is in MCRNet's paper. Sources: Rizve, Khan, Khan, Shah, "Exploring complementary strengths of invariant and
equivariant representations for few-shot learning", CVPR 2021; Tian et al., "Rethinking few-shot image classification",
ECCV 2020; Rajasegaran et al., "Self-supervised knowledge distillation", 2020; Bendou et al., "EASY", 2022. What differs
from Rizve et al.: every view draws its own crop and colors, 4 turns of twice as many images, which the network sees
enlarged, a running mean of the weights, a second generation that goes on instead of beginning anew, and cosines of
features in place of squared errors.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from pauca.choices import check_choices
from pauca.errors import ConfigError
from pauca.fewshot.backbones import feature_count
from pauca.fewshot.latent import LATENT_CHANNELS, LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.bank import ContrastBank, contrast
from pauca.fewshot.training.config import Protocol, TrainConfig
from pauca.fewshot.training.views import VIEWS, ViewCount, draw_views


@dataclass(frozen=True)
class StrongConfig:
    """What the recipe `strong` adds to `TrainConfig`, whose `steps` are those of each generation."""

    generations: int = 2
    """1: no distillation; each further one starts from the one before and is taught by it."""
    images_per_step: int = 128
    """Images in a step; each is seen in `views` views."""
    views: ViewCount = 4
    """Views of each image: 4 (turns), 8 (turns, whole and in part) or 16 (turns of four windows)."""
    view_weight: float = 1.0
    """Weight of telling which view an image is seen in; 0 leaves it out."""
    contrast_weight: float = 1.0
    """Weight of the contrast between an image's views and other images; 0 leaves it out."""
    negatives: int = 6400
    """Vectors of other images that each image is contrasted with, drawn anew for each step."""
    distillation_weight: float = 1.0
    """Weight of what the generation before answers, from the second one on."""
    temperature: float = 4.0
    """Temperature that softens the answers of both generations: the higher, the softer."""
    later_rate: float = 0.5
    """Learning rate of further generations, as a share of that of the first."""
    warm_up: float = 0.02
    """Share of a generation's steps over which the learning rate grows from zero."""
    average: float = 0.999
    """What is validated, kept and teaches is a running mean of the weights: so much of it is kept in each step, less in
    the first ones; 0 takes the weights of the last step."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least in (("generations", 1), ("images_per_step", 2), ("negatives", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"strong: give at least {least} {name}, not {getattr(self, name)}")
        for name in ("view_weight", "contrast_weight", "distillation_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"strong: {name} {getattr(self, name)} must be a number, and cannot be negative")
        for name in ("temperature", "later_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"strong: {name} {getattr(self, name)} must be positive, and a number")
        for name in ("warm_up", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"strong: {name} {getattr(self, name)} must be a share from 0 to below 1")


STRONG = Protocol(
    ModelConfig(
        backbone="resnet12-enlarged",
        base_learner="cosine",
        latent=LatentConfig(mode="none"),
        center_features=0.5,
        whiten_features=0.5,
    ),
    TrainConfig(steps=14_000, learning_rate=0.05, schedule=((0.0, 1.0), (0.92, 0.1)), validate_every=7000),
)


@dataclass(frozen=True)
class Answers:
    """What a network says of views: floats of any precision."""

    features: Float[Tensor, "n d"]
    classes: Float[Tensor, "n classes"]
    views: Float[Tensor, "n 16"]
    contrast: Float[Tensor, "n k"]  # unit vectors


@dataclass(frozen=True)
class StrongLosses:
    """The loss of a step and its parts, in nats but for the features' share of the distillation."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    views: Float[Tensor, ""]
    contrast: Float[Tensor, ""]
    distillation: Float[Tensor, ""]
    latent: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]  # on the base classes, of the views

    def detached(self) -> "StrongLosses":
        return StrongLosses(*(getattr(self, f.name).detach() for f in fields(self)))


class StrongNetwork(nn.Module):
    """An `MCRNet` with three heads that serve training alone: classes, views, contrast.

    Args:
        encoder: the model; its base learner is not trained.
        classes: number of base classes.
        dimensions: of the vectors that are contrasted.
    """

    def __init__(self, encoder: MCRNet, classes: int, dimensions: int = 64) -> None:
        super().__init__()
        side = encoder.config.image_size
        channels = encoder.config.channels if encoder.stem is None else LATENT_CHANNELS
        features = feature_count(encoder.backbone, (channels, side, side))
        self.encoder = encoder
        self.classes = nn.Linear(features, classes)
        self.views = _head(features, VIEWS)
        self.contrast = _head(features, dimensions)

    def forward(self, pixels: Float[Tensor, "n c h w"]) -> tuple[Answers, Float[Tensor, ""]]:
        """The answers, and what the encoder's latent space adds to the loss."""
        encoding = self.encoder.encode(pixels)
        features = encoding.features
        return Answers(
            features, self.classes(features), self.views(features), F.normalize(self.contrast(features).float(), dim=1)
        ), self.encoder.latent_loss(encoding)


def _head(features: int, outputs: int) -> nn.Module:
    """Three linear layers, as in Rizve et al."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Linear(features, outputs))


def losses_of_step(
    network: StrongNetwork,
    bank: ContrastBank,
    teacher: StrongNetwork | None,
    images: UInt8[Tensor, "b c h w"],
    labels: Int64[Tensor, "b"],
    config: StrongConfig,
    augmentation: AugmentConfig,
    smoothing: float = 0.0,
) -> tuple[StrongLosses, Float[Tensor, "b k"]]:
    """The losses of one step, and the vectors of the images' first views for the bank."""
    with torch.no_grad():
        pixels, view_numbers = draw_views(images, config.views, augmentation)
    answers, latent = network(pixels)
    view_labels = labels.repeat_interleave(config.views)
    cross_entropy = F.cross_entropy(answers.classes, view_labels, label_smoothing=smoothing)
    none = torch.zeros((), device=images.device)
    of_views = F.cross_entropy(answers.views, view_numbers) if config.view_weight else none
    vectors = answers.contrast.unflatten(0, (-1, config.views))
    of_contrast = contrast(vectors, bank.draw(config.negatives)) if config.contrast_weight else none
    of_teacher = none
    if teacher is not None:
        with torch.no_grad():
            taught, _ = teacher(pixels)
        of_teacher = distillation(answers, taught, config.temperature)
    total = (
        cross_entropy
        + config.view_weight * of_views
        + config.contrast_weight * of_contrast
        + config.distillation_weight * of_teacher
        + latent
    )
    accuracy = (answers.classes.argmax(1) == view_labels).float().mean()
    parts = StrongLosses(total, cross_entropy, of_views, of_contrast, of_teacher, latent, accuracy)
    return parts, vectors[:, 0].detach()


def distillation(answers: Answers, taught: Answers, temperature: float) -> Float[Tensor, ""]:
    """How far answers are from a teacher's: divergence of softened classes and views, and 1 - cosine of features."""
    cosine = F.cosine_similarity(answers.features.float(), taught.features.float(), dim=1).mean()
    return (
        _divergence(answers.classes, taught.classes, temperature)
        + _divergence(answers.views, taught.views, temperature)
        + (1 - cosine)
    )


def _divergence(answers: Tensor, taught: Tensor, temperature: float) -> Float[Tensor, ""]:
    """KL(taught || answers), times the squared temperature, by which softening shrinks its gradient."""
    ours, theirs = (torch.log_softmax(part.float() / temperature, 1) for part in (answers, taught))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
