"""MCRNet: latent stem, feature network and base learner as one module, with its loss and its file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from pauca.errors import ConfigError, InputError
from pauca.fewshot.backbones import feature_count, make_backbone
from pauca.fewshot.base_learners import Head, make_base_learner
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.latent import LATENT_CHANNELS, LatentConfig, LatentStem, draws_at_test
from pauca.fewshot.types import PADDING, TrainingData
from pauca.fewshot.windows import CROPS, show, windows_at_test
from pauca.runs.tensors import save_tensors

# In the metadata of a model's file; one entry, because safetensors writes several in changing order.
_DESCRIPTION = "pauca.fewshot"
CUSTOM = "custom"  # the name in the config of a part that was handed over as an object


@dataclass(frozen=True)
class ModelConfig:
    """What a few-shot model is made of."""

    backbone: str = "resnet12"
    """Feature network, a key of `BACKBONES`. MetaOptNet's plain network is `resnet12-plain` with latent mode `none`."""
    base_learner: str = "ridge"
    """Classifier fitted to each episode's support, a key of `BASE_LEARNERS`."""
    image_size: int = 32
    """Side of the square images, in pixels."""
    channels: int = 3
    """3 for color images, 1 for gray ones."""
    fitting: Fitting = "crop"
    """How images that are not square are fitted to the model: `crop` scales the shorter side and cuts the longer one,
    `squash` scales both."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """The latent space in front of the feature network."""
    center_features: bool = False
    """At test time, subtract from the features their mean over the training classes and scale them to length one."""


@dataclass(frozen=True)
class Encoding:
    """Features of a batch and, while training, the terms that the latent space adds to the loss."""

    features: Float[Tensor, "b d"]
    kl: Float[Tensor, ""]  # nats per latent value
    reconstruction: Float[Tensor, ""]  # squared error per value of the normalized image


@dataclass(frozen=True)
class Losses:
    """The training loss of a batch of episodes and its parts; all on the device, so that reading them may wait."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class MCRNet(nn.Module):
    """Image -> latent code -> features -> a classifier fitted to the support of each episode.

    Args:
        config: the parts by name.
        backbone: any module `[b, c, h, w] -> [b, d]` in place of the named one; it reads the latent code of 64
            channels, or the image itself in latent mode `none`.
        base_learner: any `BaseLearner` module in place of the named one.
    """

    mean: Tensor
    deviation: Tensor
    feature_mean: Tensor  # only with config.center_features

    def __init__(
        self, config: ModelConfig, backbone: nn.Module | None = None, base_learner: nn.Module | None = None
    ) -> None:
        super().__init__()
        if config.channels not in (1, 3):
            raise ConfigError(f"{config.channels} image channels; use 3 for color or 1 for gray")
        self.config = config
        self.trained_on: TrainingData | None = None  # set by training, kept in the file
        self.stem = None if config.latent.mode == "none" else LatentStem(config.channels, config.latent)
        code_channels = config.channels if self.stem is None else LATENT_CHANNELS
        if backbone is None:  # and not if it is false, as an empty nn.Sequential is
            backbone = make_backbone(config.backbone, code_channels, config.image_size)
        self.backbone = backbone
        self.base_learner = make_base_learner(config.base_learner) if base_learner is None else base_learner
        # Set from the training images by `train`; the model carries them, so that its users need not know.
        self.register_buffer("mean", torch.full((config.channels,), 0.5))
        self.register_buffer("deviation", torch.full((config.channels,), 0.25))
        if config.center_features:
            side = config.image_size
            features = feature_count(self.backbone, (code_channels, side, side))
            self.register_buffer("feature_mean", torch.zeros(2, features))  # of whole images, of crops

    def normalize(self, images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Shift and scale images (bytes, or values from 0 to 1) by the statistics of the training set."""
        return (_from_bytes(images) - self.mean[:, None, None]) / self.deviation[:, None, None]

    normalise = normalize  # its name in 0.1

    def embed(
        self,
        images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"],
        generator: torch.Generator | None = None,
        mirror: bool = False,
        crops: bool = False,
    ) -> Float[Tensor, "b d"]:
        """Features at test time, read from the latent space as `config.latent.test_code` says.

        Over `mc:N` samples, over an image and its mirror image if `mirror` is set, and over the image and five crops of
        it if `crops` is set, the features are averaged: base learners with linear scores, like ridge, then give the
        average of the scores.
        """
        whole, cropped = self._by_window(images, generator, mirror, crops)
        if self.config.center_features:
            whole, cropped = whole - self.feature_mean[0], cropped - self.feature_mean[1]
        features = (whole + CROPS * cropped) / (1 + CROPS) if crops else whole
        return functional.normalize(features, dim=1) if self.config.center_features else features

    def _by_window(
        self, images: Tensor, generator: torch.Generator | None, mirror: bool, crops: bool
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Features of the whole images, and their mean over the crops (the same as of the whole without `crops`)."""

        def seen(pixels: Tensor) -> Float[Tensor, "b d"]:
            normalized = self.normalize(pixels)
            features = _precise(self._features(normalized, generator))
            return (features + _precise(self._features(normalized.flip(-1), generator))) / 2 if mirror else features

        whole = seen(images)
        if not crops:
            return whole, whole
        pixels = _from_bytes(images)
        windows = windows_at_test(images.shape[-1], len(images), images.device)
        return whole, torch.stack([seen(show(pixels, window)) for window in windows]).mean(0)

    @torch.no_grad()
    def learn_center(self, images: UInt8[Tensor, "n c h w"], images_per_pass: int = 256) -> None:
        """Take the mean features of the training classes, of their whole images and of crops, for `center_features`."""
        if not self.config.center_features:
            return
        was_training = self.training
        self.eval()
        sums = torch.zeros_like(self.feature_mean, dtype=torch.float64)
        generator = torch.Generator(images.device).manual_seed(0)
        for part in images.split(images_per_pass):
            for row, features in enumerate(self._by_window(part, generator, mirror=True, crops=True)):
                sums[row] += features.double().sum(0)
        self.feature_mean.copy_(sums / len(images))
        self.train(was_training)

    def _features(
        self, normalized: Float[Tensor, "b c h w"], generator: torch.Generator | None
    ) -> Float[Tensor, "b d"]:
        if self.stem is None:
            return self.backbone(normalized)
        samples = draws_at_test(self.config.latent.test_code)
        if samples == 0:
            return self.backbone(self.stem.mean(normalized))
        posterior = self.stem.posterior(normalized)
        features = self.backbone(posterior.sample(generator))
        for _ in range(samples - 1):
            features = features + self.backbone(posterior.sample(generator))
        return features / samples

    def encode(self, images: Float[Tensor, "b c h w"]) -> Encoding:
        """Features while training: one sample of the code, and the terms of the variational loss if there are any."""
        normalized = self.normalize(images)
        none = torch.zeros((), device=images.device)
        if self.stem is None:
            return Encoding(self.backbone(normalized), none, none)
        posterior = self.stem.posterior(normalized)
        code = posterior.sample()
        variational = self.config.latent.mode == "variational"
        kl = posterior.kl_to_standard_normal() if variational else none
        reconstruction = none
        if self.stem.decoder is not None:
            reconstruction = (self.stem.reconstruct(code).float() - normalized.float()).square().mean()
        return Encoding(self.backbone(code), kl, reconstruction)

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

    def losses(
        self,
        encoding: Encoding,
        support_labels: Int64[Tensor, "e n"],
        query_labels: Int64[Tensor, "e q"],
        way: int,
        smoothing: float = 0.0,
    ) -> Losses:
        """The training loss of episodes whose images, support before query, are encoded in `encoding`.

        The latent space's terms count in full, or as far as `set_training_step` has warmed them up.
        """
        episodes, shots = support_labels.shape
        features = encoding.features.unflatten(0, (episodes, shots + query_labels.shape[1]))
        logits = self.classify(features[:, :shots], support_labels, features[:, shots:], way)
        cross_entropy = episode_cross_entropy(logits, query_labels, smoothing)
        total = cross_entropy + self.latent_loss(encoding)
        counted = query_labels != PADDING
        accuracy = ((logits.argmax(-1) == query_labels) & counted).sum() / counted.sum()
        return Losses(total, cross_entropy, encoding.kl, encoding.reconstruction, accuracy)

    def latent_loss(self, encoding: Encoding) -> Float[Tensor, ""]:
        """What the latent space adds to the loss, as far as `set_training_step` has warmed it up."""
        latent = self.config.latent
        if self.stem is None or latent.mode != "variational":
            return encoding.kl
        weighted = latent.kl_weight * encoding.kl + latent.reconstruction_weight * encoding.reconstruction
        return self.stem.loss_share * weighted

    def save(self, path: Path | str, force: bool = True) -> None:
        """Write weights, config and what is remembered of the training data to one safetensors file, atomically.

        Raises:
            PaucaError: the disk refuses, because it is full or read-only.
        """
        remembered = asdict(self.trained_on) if self.trained_on else None
        description = asdict(self.config) | {"trained_on": remembered}
        save_tensors(Path(path), self.state_dict(), {_DESCRIPTION: json.dumps(description)}, force)

    @classmethod
    def load(
        cls, path: Path | str, backbone: nn.Module | None = None, base_learner: nn.Module | None = None
    ) -> "MCRNet":
        """Read a model that `save` wrote, ready for evaluation, on the CPU.

        A part that was handed over as an object when the model was made must be handed over again.
        """
        weights, metadata = read_safetensors(path)
        if _DESCRIPTION not in metadata:
            raise InputError(f"{path}: holds weights but no pauca.fewshot config; give a file written by MCRNet.save")
        try:
            config, trained_on = read_description(metadata[_DESCRIPTION])
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            raise InputError(
                f"{path}: its description cannot be read ({error}); it is damaged, or a newer pauca wrote it: update "
                "pauca, or save the model again"
            ) from error
        model = cls(config, backbone, base_learner)
        model.trained_on = trained_on
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path}: its weights do not fit the model ({reason})") from error
        return model.eval()


def _precise(features: Tensor) -> Tensor:
    """Float32 or better: in bfloat16, as autocast leaves them, features are too coarse to add up."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _from_bytes(images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return images / 255 if images.dtype == torch.uint8 else images


def read_description(text: str) -> tuple[ModelConfig, TrainingData | None]:
    """The model config and what is remembered of the training data, in the metadata of a safetensors file."""
    values: dict[str, Any] = json.loads(text)
    remembered = values.pop("trained_on", None)
    latent = dict(values.pop("latent"))
    latent["log_sigma_range"] = tuple(latent["log_sigma_range"])
    return ModelConfig(latent=LatentConfig(**latent), **values), training_data(remembered)


def training_data(values: dict[str, Any] | None) -> TrainingData | None:
    """What a model remembers of its training images, from JSON."""
    if values is None:
        return None
    known = values | {"class_names": tuple(values["class_names"])}
    return TrainingData(**known)  # pyright: ignore[reportArgumentType]


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: is not a readable safetensors file ({error}); give the path of a saved model"
        ) from error


def episode_cross_entropy(
    logits: Float[Tensor, "e q way"], labels: Int64[Tensor, "e q"], smoothing: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the queries in nats; the share `smoothing` of the target is spread over the episode's
    classes. Padded queries, and classes that an episode lacks (logit -inf), count for nothing."""
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    present = torch.isfinite(log_probabilities)
    counted = labels != PADDING
    of_label = log_probabilities.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    of_classes = torch.where(present, log_probabilities, 0).sum(-1) / present.sum(-1)
    loss = -((1 - smoothing) * of_label + smoothing * of_classes)
    return torch.where(counted, loss, 0).sum() / counted.sum()
