"""The latent space in front of the feature network: an image becomes a distribution over codes, a code is drawn.

What is fact and what is ours: the encoder (3x3 convolution to 32 channels, ReLU, two 3x3 heads to 64 channels for mu
and log sigma) and the draw z = mu + sigma eps are the authors' released code, which adds no term to the loss: mode
`released`. The figure of the paper names a Kullback-Leibler divergence and a reconstruction error; their weights, the
decoder back to the image, the warm-up and the bounds on log sigma are our reconstruction: mode `variational`. Mode
`deterministic` takes z = mu and is the control that a gain of the other two must beat: it has the same depth and, but
for the log sigma head (2 % of the multiply-adds), the same compute.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pauca.errors import ConfigError
from pauca.fewshot.backbones import PAPER_STEPS

ENCODER_CHANNELS = 32
LATENT_CHANNELS = 64
WARM_UP = 1 / 60  # of a training
# Free log sigma heads were seen to reach exp(log sigma) of 4.7e6 within 500 steps; this bound only keeps them finite.
RELEASED_LOG_SIGMA = (-10.0, 10.0)

LatentMode = Literal["auto", "none", "deterministic", "released", "variational"]


@dataclass(frozen=True)
class LatentConfig:
    """How the latent space is trained and read."""

    mode: LatentMode = "auto"
    """`none`: no latent space; `deterministic`: z = mu; `released`: sampled; `variational`: sampled, both losses.
    `auto` is `deterministic`, than which neither of the sampled ones was better where it was measured, or `variational`
    where a weight of its losses is not the usual one, or codes are to be drawn at test time; on a CPU `pauca fewshot
    train` takes `none` where steps were more than twice as dear."""
    kl_weight: float = 0.01
    """Weight of the Kullback-Leibler divergence to N(0, I), in nats per latent value (`variational` only)."""
    reconstruction_weight: float = 0.0
    """Weight of the squared error of the reconstructed, normalized image, per pixel value (`variational` only)."""
    warm_up_steps: int | None = None
    """Steps over which both weights grow linearly from zero; if not given, a sixtieth of the training: 1,000 of
    the paper's 60,000."""
    log_sigma_range: tuple[float, float] = (-6.0, 1.0)
    """Bounds of log sigma (`variational` only)."""
    log_sigma_start: float = -3.0
    """Log sigma before training (`variational` only)."""
    test_code: str = "mean"
    """Code used at test time: `mean`, `sample`, or `mc:N`, the mean of the features over N samples."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(LatentMode):
            raise ConfigError(
                f"latent mode {self.mode!r} is not known; choose one of {', '.join(get_args(LatentMode))}"
            )
        low, high = self.log_sigma_range
        if not -math.inf < low <= self.log_sigma_start <= high < math.inf:
            raise ConfigError(f"log_sigma_start {self.log_sigma_start} lies outside log_sigma_range {low} to {high}")
        for name in ("kl_weight", "reconstruction_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} {getattr(self, name)} of the latent space must be a number, and cannot be negative"
                )
        if (self.warm_up_steps or 0) < 0:
            raise ConfigError(f"warm_up_steps {self.warm_up_steps} of the latent space cannot be negative")
        draws_at_test(self.test_code)

    def settled(self) -> "LatentConfig":
        """With `auto` called what it is."""
        if self.mode != "auto":
            return self
        asked = self.kl_weight, self.reconstruction_weight, self.test_code
        usual = LatentConfig.kl_weight, LatentConfig.reconstruction_weight, LatentConfig.test_code
        return replace(self, mode="deterministic" if asked == usual else "variational")


def draws_at_test(test: str) -> int:
    """How many codes a test-time setting draws for an image: 0 for `mean`, 1 for `sample`, N for `mc:N`."""
    if test == "mean":
        return 0
    if test == "sample":
        return 1
    kind, _, number = test.partition(":")
    if kind == "mc" and number.isdecimal() and int(number) > 0:
        return int(number)
    raise ConfigError(f"test-time latent {test!r} is not known; use mean, sample or mc:N with N of 1 or more")


@dataclass(frozen=True)
class Posterior:
    """The Gaussian q(z | image), one value per latent channel and pixel; without spread when `log_sigma` is None."""

    mu: Float[Tensor, "b z h w"]
    log_sigma: Float[Tensor, "b z h w"] | None

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b z h w"]:
        """Draw z = mu + sigma eps, differentiable in mu and sigma."""
        if self.log_sigma is None:
            return self.mu
        if generator is None:  # randn_like alone can be fused into a compiled graph
            noise = torch.randn_like(self.mu)
        else:
            noise = torch.randn(self.mu.shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + self.log_sigma.exp() * noise

    def kl_to_standard_normal(self) -> Float[Tensor, ""]:
        """KL(q || N(0, I)) in nats per latent value, averaged over images."""
        if self.log_sigma is None:
            raise ConfigError("a deterministic latent code has no Kullback-Leibler divergence; use mode variational")
        return _KLToStandardNormal.apply(self.mu, self.log_sigma)


class _KLToStandardNormal(torch.autograd.Function):
    """The mean divergence of N(mu, sigma^2) from N(0, 1); its gradient keeps the memory layout of what it is of.

    That of `mean`, which autograd would take, is one number expanded and then divided: contiguous whatever the values
    are, and so is what it is added to. The convolution of both heads then had its gradient copied into channels last,
    3.4 of 102.5 ms in a step at 84 pixels on an H200. Same numbers, bit for bit.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, log_sigma: Tensor) -> Tensor:
        ctx.save_for_backward(mu, log_sigma)
        mu, log_sigma = mu.float(), log_sigma.float()
        return 0.5 * (mu.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_sigma = ctx.saved_tensors
        share = gradients[0] / mu.numel()
        of_log_sigma = (2 * log_sigma.float()).exp() * share - share
        return (mu.float() * share).to(mu.dtype), of_log_sigma.to(log_sigma.dtype)


class LatentStem(nn.Module):
    """Encoder of images into a latent code of the same height and width, and the way back.

    Args:
        channels_in: channels of the image.
        config: mode and loss weights.
    """

    loss_share: Tensor

    def __init__(self, channels_in: int, config: LatentConfig) -> None:
        super().__init__()
        self.config = config = config.settled()
        # In a buffer, like DropBlock's rate, so that a captured graph reads the new value.
        self.register_buffer("loss_share", torch.ones(()), persistent=False)
        self.encoder = nn.Conv2d(channels_in, ENCODER_CHANNELS, 3, padding=1)
        self.mu = nn.Conv2d(ENCODER_CHANNELS, LATENT_CHANNELS, 3, padding=1)
        self.log_sigma: nn.Conv2d | None = None
        if config.mode != "deterministic":
            self.log_sigma = nn.Conv2d(ENCODER_CHANNELS, LATENT_CHANNELS, 3, padding=1)
        if config.mode == "variational":
            assert self.log_sigma is not None
            nn.init.zeros_(self.log_sigma.weight)
            nn.init.constant_(_bias(self.log_sigma), config.log_sigma_start)
        self.decoder: nn.Module | None = None
        if config.mode == "variational" and config.reconstruction_weight > 0:
            self.decoder = nn.Sequential(
                nn.ConvTranspose2d(LATENT_CHANNELS, ENCODER_CHANNELS, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(ENCODER_CHANNELS, channels_in, 3, padding=1),
            )

    def posterior(self, images: Float[Tensor, "b c h w"]) -> Posterior:
        """The distribution of the code of each normalized image."""
        hidden = F.relu(self.encoder(images))
        if self.log_sigma is None:
            return Posterior(self.mu(hidden), None)
        # One convolution for both heads: the same numbers from one pass over the hidden map.
        heads = F.conv2d(
            hidden,
            torch.cat([self.mu.weight, self.log_sigma.weight]),
            torch.cat([_bias(self.mu), _bias(self.log_sigma)]),
            padding=1,
        )
        mu, log_sigma = heads.chunk(2, dim=1)
        low, high = self.config.log_sigma_range if self.config.mode == "variational" else RELEASED_LOG_SIGMA
        return Posterior(mu, log_sigma.clamp(low, high))

    def mean(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b z h w"]:
        """The mean code alone, without the cost of the log sigma head."""
        return self.mu(F.relu(self.encoder(images)))

    def reconstruct(self, code: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h w"]:
        """The normalized image that the decoder reads from a code."""
        if self.decoder is None:
            raise ConfigError(
                "this model has no image decoder; train with mode variational and reconstruction_weight > 0"
            )
        return self.decoder(code)

    def set_step(self, step: int, steps: int = PAPER_STEPS) -> None:
        """Set the share of the loss weights that is in force after `step` of `steps` training steps."""
        warm_up = self.config.warm_up_steps
        if warm_up is None:
            warm_up = round(WARM_UP * steps)
        self.loss_share.fill_(min(1.0, step / warm_up) if warm_up else 1.0)


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
