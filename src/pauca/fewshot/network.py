"""What every few-shot model is, wherever its network comes from: features of images, and what classifies by them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from pauca.choices import check_choices
from pauca.errors import ConfigError
from pauca.fewshot.base_learners import Head, make_base_learner
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.types import TrainingData
from pauca.fewshot.views_at_test import AS_IT_IS, KINDS, Kind, ViewsAtTest, from_bytes


@dataclass(frozen=True)
class ModelConfig:
    """What a few-shot model is made of."""

    backbone: str = "resnet12"
    """Feature network: resnet12, resnet12-plain, resnet12-pooled, resnet12-enlarged, conv4, conv4-32, r2d2, or without
    anything to train edges or pixels. MetaOptNet's plain network is resnet12-plain with latent mode none."""
    base_learner: str = "ridge"
    """Classifier fitted to each episode's support: ridge, svm, prototypes, logistic or cosine."""
    image_size: int = 32
    """Side of the square images, in pixels."""
    channels: int = 3
    """3 for color images, 1 for gray ones."""
    fitting: Fitting = "crop"
    """How images that are not square are fitted to the model: `crop` scales the shorter side and cuts the longer one,
    `squash` scales both."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """The latent space in front of the feature network."""
    center_features: float = 0.0
    """At test time, scale the features to length one, subtract this share of their mean over the training classes (1 is
    all of it) and scale again; 0 leaves features as they are."""
    whiten_features: float = 0.0
    """At test time, scale the features to length one and put them beside themselves, whitened by what varies within the
    training classes; this share of the squared length is that of the whitened ones. 0 leaves them out."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def unit_length(self) -> bool:
        """Whether features are scaled to length one."""
        return self.center_features > 0 or self.whiten_features > 0


class FewShotModel(nn.Module):
    """Features of images, and a base learner that classifies by them. A network says `_features`.

    Args:
        config: size and channels of the images, the base learner by name, how features are scaled.
        base_learner: any `BaseLearner` module in place of the named one.
    """

    unit_length = False  # whether features always have length one
    is_known = False  # whether the network is one that somebody trained on many images, not pauca
    refits = False  # whether images of any size are fitted to the network, and not refused

    mean: Tensor
    deviation: Tensor
    feature_mean: Tensor  # [kinds, d] of unit vectors, one row for each of KINDS; only with config.center_features
    whitening: Tensor  # [d, d], of all kinds; only with config.whiten_features

    def __init__(self, config: ModelConfig, base_learner: nn.Module | None = None) -> None:
        super().__init__()
        if config.channels not in (1, 3):
            raise ConfigError(f"{config.channels} image channels; use 3 for color or 1 for gray")
        if not 0 <= config.center_features <= 1:
            raise ConfigError(f"center_features {config.center_features}: a share of the mean, from 0 to 1")
        if not 0 <= config.whiten_features <= 1:
            raise ConfigError(f"whiten_features {config.whiten_features}: a share of the features, from 0 to 1")
        self.config = config
        self.stem: Any = None  # what stands before the network; only MCRNet has one
        self.trained_on: TrainingData | None = None  # set by training, kept in the file
        self.base_learner = make_base_learner(config.base_learner) if base_learner is None else base_learner
        # Set from the training images by `train`; the model carries them, so that its users need not know.
        self.register_buffer("mean", torch.full((config.channels,), 0.5))
        self.register_buffer("deviation", torch.full((config.channels,), 0.25))

    def normalize(self, images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Shift and scale images (bytes, or values from 0 to 1) by the statistics of the training set."""
        return (from_bytes(images) - self.mean[:, None, None]) / self.deviation[:, None, None]

    normalise = normalize  # its name in 0.1

    def embed(
        self,
        images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"],
        generator: torch.Generator | None = None,
        mirror: bool = False,
        views: ViewsAtTest = AS_IT_IS,
    ) -> Float[Tensor, "b d"]:
        """Features at test time, read from the latent space as `config.latent.test_code` says.

        Over `mc:N` samples, and over the views of one turn, the features are averaged: base learners with linear
        scores, like ridge, then give the average of the scores. Those of several turns stand side by side, `[b, 4 d]`,
        as a network that was taught to know them apart (the recipe `strong`) sees other things in each.

        Args:
            images: bytes, or values from 0 to 1, of the model's size and channels.
            generator: of the noise of latent settings that sample at test time.
            mirror: as `views.mirror`, which took its place.
            views: in which the images are seen.
        """
        mirror = views.mirror or mirror
        turns = [self._mean(images, kinds, mirror, generator) for kinds in views.by_turn()]
        return torch.cat(turns, 1) / math.sqrt(len(turns))

    def _mean(
        self, images: Tensor, kinds: list[Kind], mirror: bool, generator: torch.Generator | None
    ) -> Float[Tensor, "b d"]:
        """The mean features of the views of one turn, each kind about its own mean over the training classes."""
        means = [self.settle(self._seen(images, kind, mirror, generator), kind) for kind in kinds]
        mean = torch.stack(means).mean(0)
        return functional.normalize(mean, dim=1) if self.config.unit_length and len(kinds) > 1 else mean

    def settle(self, features: Float[Tensor, "b d"], kind: Kind) -> Float[Tensor, "b d2"]:
        """Features of one kind of view, centered and whitened as the config says; twice as many where they are."""
        if not self.config.unit_length:
            return features
        unit, share = self._centered(functional.normalize(features, dim=1), kind), self.config.whiten_features
        if not share:
            return unit
        with torch.autocast(unit.device.type, enabled=False):
            whitened = functional.normalize(unit @ self.whitening.to(unit.dtype), dim=1)  # of a model of 16 bits
        return torch.cat([math.sqrt(1 - share) * unit, math.sqrt(share) * whitened], 1)

    def _centered(self, unit: Float[Tensor, "b d"], kind: Kind) -> Float[Tensor, "b d"]:
        """Features of length one about their mean over other classes, as far as `center_features` says."""
        share = self.config.center_features
        return functional.normalize(unit - share * self.feature_mean[KINDS.index(kind)], dim=1) if share else unit

    def _seen(
        self, images: Tensor, kind: Kind, mirror: bool, generator: torch.Generator | None
    ) -> Float[Tensor, "b d"]:
        """The mean features of views of one kind, and of their mirror images, as the network gives them."""
        return torch.stack([self._shown(view, mirror, generator) for view in kind.images(images)]).mean(0)

    def _shown(self, view: Tensor, mirror: bool, generator: torch.Generator | None) -> Float[Tensor, "b d"]:
        normalized = self.normalize(view)
        features = _precise(self._features(normalized, generator))
        return (features + _precise(self._features(normalized.flip(-1), generator))) / 2 if mirror else features

    def _features(
        self, normalized: Float[Tensor, "b c h w"], generator: torch.Generator | None
    ) -> Float[Tensor, "b d"]:
        raise NotImplementedError(f"{type(self).__name__} does not say how it makes features")

    def classify(
        self,
        support: Float[Tensor, "e n d"],
        support_labels: Int64[Tensor, "e n"],
        query: Float[Tensor, "e q d"],
        way: int,
    ) -> Float[Tensor, "e q way"]:
        """Logits of the queries by classifiers fitted to the supports, in float32 or better: kernels of 25 or more
        images are too ill-conditioned for less."""
        precise = torch.promote_types(support.dtype, torch.float32)
        with torch.autocast(support.device.type, enabled=False):
            return self.base_learner(support.to(precise), support_labels, query.to(precise), way)

    def fitted(
        self, support: Float[Tensor, "e n d"], support_labels: Int64[Tensor, "e n"], way: int
    ) -> Callable[[Tensor], Tensor]:
        """A classifier fitted to each support, from queries [e, q, d] to logits [e, q, way], to be asked many times.

        A base learner of one's own that is not a `Head` has nothing to keep and is fitted anew each time.
        """
        if isinstance(self.base_learner, Head):
            return self.base_learner.fitted(support, support_labels, way)
        return lambda query: self.classify(support, support_labels, query, way)


def _precise(features: Tensor) -> Tensor:
    """Float32 or better: in bfloat16, as autocast leaves them, features are too coarse to add up."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
