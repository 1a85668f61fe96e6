"""A network from elsewhere as a few-shot model: one class that holds it, its preprocessing, pooling and description."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.fewshot.base_learners import Head, make_base_learner
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.network import FewShotModel, ModelConfig
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest
from pauca.runs.tensors import save_tensors

Kind = Literal["timm", "hf", "onnx", "efficientnet-lite0", "module"]
DESCRIPTION = "pauca.fewshot.pretrained"  # in the metadata of a model's file
_VERSION = 1
# For features of length one, where the base learners' own settings are for any length: penalties with the best
# accuracy and scales with the best likelihood of 200 tasks of CIFAR-100 with 5 shots, features of EfficientNet-Lite0.
# There ridge is as accurate as logistic regression (71.1, 87.5 and 91.7 % with 1, 5 and 20 shots of 5 classes; cosine
# 70.5, 87.3 and 90.7), and many times as fast.
_OPTIONS: dict[str, dict[str, float]] = {
    "ridge": {"penalty": 1.0, "scale": 9.0},
    "logistic": {"penalty": 0.1, "scale": 3.6},
    "cosine": {"scale": 30.0},
    "prototypes": {"scale": 20.0, "per_feature": False},
    "svm": {"scale": 66.0},
}
DEFAULT_BASE_LEARNER = "ridge"
_LARGEST = 2.0  # mean or deviation of values from 0 to 1, with room for a network that wants them far from 0


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of an image."""

    size: int
    """Side of the square that it sees, in pixels."""
    mean: tuple[float, ...]
    """Subtracted from each channel, whose values run from 0 to 1; as many numbers as channels, 3 or 1."""
    deviation: tuple[float, ...]
    """What each channel is then divided by."""
    fitting: Fitting = "crop"
    """How images that are not square become so: `crop` or `squash`."""
    seen_share: float = 1.0
    """Share of the side of that square that the network sees: its center (timm's crop_pct)."""
    blue_first: bool = False
    """Whether it takes blue, green and red in this order; `mean` and `deviation` are in the usual one."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation) or len(self.mean) not in (1, 3):
            raise ConfigError(
                f"preprocessing with {len(self.mean)} means and {len(self.deviation)} deviations: give one of each for "
                "every channel, 3 for color or 1 for gray"
            )
        if not (self.size > 0 and 0 < self.seen_share <= 1 and min(self.deviation) > 0):
            raise ConfigError(
                f"{self}: size and deviations must be positive, and the share of the side that is seen at most 1"
            )
        if max(*self.mean, *self.deviation) > _LARGEST:
            raise ConfigError(
                f"preprocessing by mean {self.mean} and deviation {self.deviation}: these are of pixels from 0 to 255, "
                "and here they run from 0 to 1; divide both by 255"
            )

    @property
    def fitted_size(self) -> int:
        """Side of the square that images are fitted to, before its center is cut out."""
        return round(self.size / self.seen_share)

    @classmethod
    def of(cls, module: nn.Module) -> "Preprocessing":
        """From a module's attributes `mean`, `std` and `size`.

        Raises:
            ConfigError: it lacks one of them.
        """
        missing = [name for name in ("mean", "std", "size") if not hasattr(module, name)]
        if missing:
            raise ConfigError(
                f"the backbone, a {type(module).__name__}, has no {' and no '.join(missing)}; give it these attributes "
                "(numbers for each channel, and the side in pixels), or give preprocessing=Preprocessing(...)"
            )
        attributes: Any = module
        sides = {int(side) for side in _numbers(attributes.size)[-2:]}  # the last two of (channels, height, width)
        if len(sides) != 1:
            raise ConfigError(
                f"the backbone, a {type(module).__name__}, has the size {attributes.size}: images are made square; "
                "give it one number of pixels"
            )
        return cls(sides.pop(), _numbers(attributes.mean), _numbers(attributes.std))


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in torch.as_tensor(values).flatten().tolist())


@dataclass(frozen=True)
class Source:
    """Where a network comes from, and what makes it again, without weights."""

    kind: Kind
    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return self.name if self.kind in ("efficientnet-lite0", "module") else f"{self.kind}:{self.name}"


class Pretrained(FewShotModel):
    """Images -> a network from elsewhere -> features of length one -> a base learner. Nothing is trained.

    Args:
        network: from normalized images [b, c, s, s] to features [b, d], or to maps [b, d, h, w], whose mean is taken.
        preprocessing: what it expects of an image.
        source: where it comes from; None for a module of one's own.
        base_learner: a name, or any `BaseLearner` module.
    """

    unit_length = True
    refits = True

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None = None,
        source: Source | None = None,
        base_learner: str | nn.Module = DEFAULT_BASE_LEARNER,
    ) -> None:
        preprocessing = preprocessing or Preprocessing.of(network)
        source = source or Source("module", type(network).__name__, {})
        as_they_are = not any(preprocessing.mean) and set(preprocessing.deviation) == {1.0}
        if getattr(network, "takes_bytes", False) and not as_they_are:
            raise ConfigError(
                f"{source}: takes bytes, which it normalizes itself; give a mean of 0 and a deviation of 1 in its "
                "preprocessor_config.json or, in Python, by preprocessing=Preprocessing(size, mean, deviation)"
            )
        config = ModelConfig(
            backbone=str(source),
            base_learner=base_learner if isinstance(base_learner, str) else type(base_learner).__name__,
            image_size=preprocessing.fitted_size,
            channels=len(preprocessing.mean),
            fitting=preprocessing.fitting,
            latent=LatentConfig(mode="none"),
        )
        super().__init__(config, as_base_learner(base_learner))
        self.network = network.eval()
        self.preprocessing, self.source = preprocessing, source
        self.is_known = source.kind in ("efficientnet-lite0", "timm", "hf")
        self.mean.copy_(torch.tensor(preprocessing.mean))
        self.deviation.copy_(torch.tensor(preprocessing.deviation))

    def _features(
        self, normalized: Float[Tensor, "b c h w"], generator: torch.Generator | None
    ) -> Float[Tensor, "b d"]:
        seen = self.seen(normalized)
        try:
            found = self.network(seen)
        except (PaucaError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a network from elsewhere raises what it likes
            words = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.config.backbone}: cannot take images {list(seen.shape)} ({type(error).__name__}: {words}); "
                "give a network of such images alone or, in Python, preprocessing=Preprocessing(size, mean, deviation) "
                "of its own to open_backbone"
            ) from error
        return normalize(pooled(found, self.config.backbone, seen), dim=1)

    def seen(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c s s"]:
        """The center of fitted images that the network sees, with its order of channels and its precision."""
        size = self.preprocessing.size
        margin = (images.shape[-1] - size) // 2
        cut = images[..., margin : margin + size, margin : margin + size] if margin else images
        ordered = cut.flip(1) if self.preprocessing.blue_first else cut
        own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), ordered.dtype)
        return ordered.to(own)

    def describe(self) -> str:
        """In a sentence: the network, what it sees, and what classifies."""
        seen = f", the middle {self.preprocessing.seen_share:.1%}" if self.preprocessing.seen_share < 1 else ""
        return (
            f"{self.config.backbone}, {self.preprocessing.size} px ({self.preprocessing.fitting}{seen}), "
            f"base learner {self.config.base_learner}"
        )

    def description(self) -> dict[str, Any]:
        """What makes the model again beside its weights, as plain data."""
        return {
            "version": _VERSION,
            "source": asdict(self.source),
            "preprocessing": asdict(self.preprocessing),
            "base_learner": self.config.base_learner,
        }

    def save(self, path: Path | str, force: bool = True) -> None:
        """Write weights and description to one safetensors file, which `open_backbone` opens again.

        Raises:
            PaucaError: the disk refuses, because it is full or read-only.
        """
        save_tensors(Path(path), self.state_dict(), {DESCRIPTION: json.dumps(self.description())}, force)


class Features(FewShotModel):
    """No network: what comes in place of images are features already, [n, d]; they are scaled to length one."""

    unit_length = True

    def __init__(self, base_learner: str | nn.Module = DEFAULT_BASE_LEARNER) -> None:
        name = base_learner if isinstance(base_learner, str) else type(base_learner).__name__
        config = ModelConfig(backbone="features", base_learner=name, latent=LatentConfig(mode="none"))
        super().__init__(config, as_base_learner(base_learner))

    def embed(
        self,
        images: UInt8[Tensor, "b d"] | Float[Tensor, "b d"],
        generator: torch.Generator | None = None,
        mirror: bool = False,
        views: ViewsAtTest = AS_IT_IS,
    ) -> Float[Tensor, "b d"]:
        """The features, scaled; there is nothing to mirror, crop or turn.

        Raises:
            ConfigError: mirror, crops or turns is set.
        """
        if views.with_mirror(mirror) != AS_IT_IS:
            raise ConfigError(
                "mirror, crops and turns need images, and the backbone `features` has none; leave them out"
            )
        return normalize(images.double(), dim=1)


def pooled(features: Any, name: str, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """One vector for each of the images: vectors as they are, the mean of maps over their places.

    Raises:
        InputError: of another shape or number, or no tensor.
    """
    if not isinstance(features, Tensor):
        raise InputError(
            f"{name}: gives a {type(features).__name__}; expected a tensor [images, features] or maps [images, "
            "features, height, width]; wrap the network in a module that picks it"
        )
    if features.ndim not in (2, 4) or features.shape[0] != images.shape[0]:
        raise InputError(
            f"{name}: gives features of shape {tuple(features.shape)} for {len(images)} images; expected [images, "
            "features] or maps [images, features, height, width]; pool tokens to one vector an image in the network"
        )
    return features.mean((2, 3)) if features.ndim == 4 else features


def with_scale_of_now(weights: dict[str, Tensor], base_learner: str) -> dict[str, Tensor]:
    """A file's weights; prototypes of 0.1, whose distances were divided by the number of features, had the scale 1."""
    name = "base_learner.scale"
    if base_learner != "prototypes" or weights.get(name) != 1:
        return weights
    return weights | {name: torch.tensor(_OPTIONS["prototypes"]["scale"])}


def as_base_learner(base_learner: str | nn.Module) -> nn.Module:
    """A base learner by name, with its settings for features of length one, or as it is."""
    if isinstance(base_learner, nn.Module):
        return base_learner
    head: Head = make_base_learner(base_learner, **_OPTIONS.get(base_learner, {}))
    return head


def with_base_learner(model: FewShotModel, base_learner: str | nn.Module) -> FewShotModel:
    """The same network with another base learner; the model that is given stays as it is."""
    other = object.__new__(type(model))
    other.__dict__ = model.__dict__ | {"_modules": dict(model._modules)}
    if isinstance(base_learner, str):
        unit_length = model.unit_length or model.config.unit_length
        other.base_learner = as_base_learner(base_learner) if unit_length else make_base_learner(base_learner)
        other.config = replace(model.config, base_learner=base_learner)
    else:
        other.base_learner = base_learner
        other.config = replace(model.config, base_learner=type(base_learner).__name__)
    return other
