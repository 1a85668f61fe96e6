"""Latent spaces elsewhere than in front of the feature network, for `fewshot_accuracy.py`. None has won, so none is in
pauca; each is a `pauca.fewshot.MCRNet` that trains and is tested as any other.

    Beside        the feature network reads the code and the image: 67 channels where MCRNet has the code's 64
    CodeRead      the feature network is the decoder, as the paper's figure draws it: a linear map reads the code, its
                  mean over squares of four pixels, from the features, and its squared error is added to the loss
    WithinClass   no stem; the features are the mean of a Gaussian whose spread a linear map of them says, the support
                  is sampled while training, and the divergence is that to a Gaussian about the mean of the class
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pauca.fewshot.backbones import feature_count, make_backbone
from pauca.fewshot.latent import LATENT_CHANNELS, Posterior, draws_at_test
from pauca.fewshot.model import Encoding, Losses, MCRNet, ModelConfig

SQUARE = 4  # pixels whose codes are read as one
LOG_SIGMA = (-6.0, 1.0)
LOG_SIGMA_START = -1.0


class Beside(MCRNet):
    """The code beside the image."""

    def __init__(self, config: ModelConfig) -> None:
        channels = config.channels + LATENT_CHANNELS
        super().__init__(config, make_backbone(config.backbone, channels, config.image_size))

    def _features(self, normalized: Tensor, generator: torch.Generator | None) -> Tensor:
        assert self.stem is not None
        samples = draws_at_test(self.config.latent.test_code)
        posterior = self.stem.posterior(normalized) if samples else Posterior(self.stem.mean(normalized), None)
        codes = [posterior.sample(generator) for _ in range(max(samples, 1))]
        return sum(self.backbone(torch.cat([normalized, code], 1)) for code in codes) / len(codes)

    def encode(self, images: Tensor) -> Encoding:
        assert self.stem is not None
        normalized = self.normalize(images)
        posterior = self.stem.posterior(normalized)
        none = torch.zeros((), device=images.device)
        kl = posterior.kl_to_standard_normal() if self.config.latent.mode == "variational" else none
        code = posterior.sample()
        return Encoding(self.backbone(torch.cat([normalized.to(code.dtype), code], 1)), kl, none)


class CodeRead(MCRNet):
    """The code read from the features; `weight` is that of its squared error, per value, over its variance."""

    def __init__(self, config: ModelConfig, weight: float) -> None:
        super().__init__(config)
        self.weight = weight
        side = config.image_size
        features = feature_count(self.backbone, (LATENT_CHANNELS, side, side))
        self.reader = nn.Linear(features, LATENT_CHANNELS * (side // SQUARE) ** 2)

    def encode(self, images: Tensor) -> Encoding:
        assert self.stem is not None
        posterior = self.stem.posterior(self.normalize(images))
        code = posterior.sample()
        features = self.backbone(code)
        seen = F.avg_pool2d(code.detach().float(), SQUARE).flatten(1)
        error = (self.reader(features).float() - seen).square().mean() / seen.var(0).mean().clamp_min(1e-6)
        return Encoding(features, posterior.kl_to_standard_normal(), error)

    def latent_loss(self, encoding: Encoding) -> Tensor:
        assert self.stem is not None
        weighted = self.config.latent.kl_weight * encoding.kl + self.weight * encoding.reconstruction
        return self.stem.loss_share * weighted


class WithinClass(MCRNet):
    """Features with a spread, `weight` that of their divergence from their class, in nats per value."""

    def __init__(self, config: ModelConfig, weight: float) -> None:
        super().__init__(config)
        self.weight = weight
        features = feature_count(self.backbone, (config.channels, config.image_size, config.image_size))
        self.log_sigma = nn.Linear(features, features)
        nn.init.zeros_(self.log_sigma.weight)
        nn.init.constant_(self.log_sigma.bias, LOG_SIGMA_START)
        self.log_prior = nn.Parameter(torch.zeros(features))

    def losses(
        self, encoding: Encoding, support_labels: Tensor, query_labels: Tensor, way: int, smoothing: float = 0.0
    ) -> Losses:
        episodes, shots = support_labels.shape
        features = encoding.features.float().unflatten(0, (episodes, shots + query_labels.shape[1]))
        mu = features[:, :shots]
        members = F.one_hot(support_labels, way).float()
        of_class = members @ (members.mT @ mu / members.sum(1).unsqueeze(-1))  # the mean of each one's class
        log_sigma = self.log_sigma(mu).clamp(*LOG_SIGMA)
        squares = (2 * log_sigma).exp() + (mu - of_class).square()
        kl = (self.log_prior - log_sigma + 0.5 * squares * (-2 * self.log_prior).exp() - 0.5).mean()
        sampled = mu + log_sigma.exp() * torch.randn_like(mu)
        drawn = replace(encoding, features=torch.cat([sampled, features[:, shots:]], 1).flatten(0, 1))
        found = super().losses(drawn, support_labels, query_labels, way, smoothing)
        return replace(found, total=found.total + self.weight * kl, kl=kl)
