"""MCRNet: latent stem, feature network and base learner as one module, with its loss and its file."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from pauca.errors import ConfigError, InputError
from pauca.fewshot.backbones import feature_count, make_backbone
from pauca.fewshot.latent import LATENT_CHANNELS, LatentConfig, LatentStem, draws_at_test
from pauca.fewshot.network import FewShotModel, ModelConfig
from pauca.fewshot.random_state import own_random_state
from pauca.fewshot.types import PADDING, TrainingData
from pauca.fewshot.views_at_test import KINDS
from pauca.fewshot.whitening import MOST_WHITENED, whitening_matrix
from pauca.runs.tensors import save_tensors

# In the metadata of a model's file; one entry, because safetensors writes several in changing order.
_DESCRIPTION = "pauca.fewshot"


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


class MCRNet(FewShotModel):
    """Image -> latent code -> features -> a classifier fitted to the support of each episode.

    Args:
        config: the parts by name.
        backbone: any module `[b, c, h, w] -> [b, d]` in place of the named one; it reads the latent code of 64
            channels, or the image itself in latent mode `none`.
        base_learner: any `BaseLearner` module in place of the named one.
    """

    stem: LatentStem | None

    def __init__(
        self, config: ModelConfig, backbone: nn.Module | None = None, base_learner: nn.Module | None = None
    ) -> None:
        config = replace(config, latent=config.latent.settled())
        super().__init__(config, base_learner)
        self.stem: LatentStem | None = (
            None if config.latent.mode == "none" else LatentStem(config.channels, config.latent)
        )
        code_channels = config.channels if self.stem is None else LATENT_CHANNELS
        if backbone is None:  # and not if it is false, as an empty nn.Sequential is
            backbone = make_backbone(config.backbone, code_channels, config.image_size)
        self.backbone = backbone
        if not config.unit_length:
            return
        side = config.image_size
        features = feature_count(self.backbone, (code_channels, side, side))
        if config.center_features:
            self.register_buffer("feature_mean", torch.zeros(len(KINDS), features))
        if config.whiten_features:
            if features > MOST_WHITENED:
                raise ConfigError(
                    f"whiten_features: {config.backbone} makes {features:,} features of images of {side} pixels, and "
                    f"more than {MOST_WHITENED:,} take too long to whiten; give whiten_features 0, or a backbone that "
                    "ends in a mean, like resnet12-enlarged"
                )
            self.register_buffer("whitening", torch.eye(features))

    @torch.no_grad()
    def learn_center(
        self,
        images: UInt8[Tensor, "n c h w"],
        images_per_pass: int = 256,
        labels: Int64[Tensor, "n"] | None = None,
    ) -> None:
        """Take what `center_features` and `whiten_features` need of the training classes.

        Kinds of several views are taken of fewer images, so that all take the same time.

        Args:
            images: some of each training class.
            images_per_pass: how many go through the network at once.
            labels: the classes of the images, for `whiten_features`.

        Raises:
            ConfigError: the model whitens features, and no labels are given.
        """
        if not self.config.unit_length:
            return
        if self.config.whiten_features and labels is None:
            raise ConfigError("whiten_features needs the labels of the images that it learns from; give labels")
        was_training = self.training
        self.eval()
        generator = torch.Generator(images.device).manual_seed(0)
        whole = []
        for row, kind in enumerate(KINDS):
            if kind.part != "whole" and not self.config.center_features:
                continue
            parts = images[:: kind.count].split(images_per_pass)
            unit = torch.cat([functional.normalize(self._seen(p, kind, True, generator), dim=1) for p in parts])
            if self.config.center_features:
                self.feature_mean[row] = unit.double().mean(0)
            if kind.part == "whole":
                whole.append(self._centered(unit, kind))
        if self.config.whiten_features and labels is not None:
            self.whitening.copy_(whitening_matrix(torch.stack(whole), labels))
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
    @own_random_state()
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


def read_description(text: str) -> tuple[ModelConfig, TrainingData | None]:
    """The model config and what is remembered of the training data, in the metadata of a safetensors file."""
    values: dict[str, Any] = json.loads(text)
    remembered = values.pop("trained_on", None)
    latent = dict(values.pop("latent"))
    latent["log_sigma_range"] = tuple(latent["log_sigma_range"])
    if "center_features" in values:  # `true` or `false` in earlier files
        values["center_features"] = float(values["center_features"])
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
