"""Features for the benchmarks of trust: of strong, weak and middling backbones, from the data folder; cached."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, normalize

from pauca.fewshot import open_backbone, read_images
from pauca.fewshot.pretrained import Preprocessing
from pauca.runs import Progress

IMAGES = 120  # of each of the 100 classes of CIFAR-100
_CACHE = Path(__file__).parent / ".cache"
NAMES = ("EfficientNet-Lite0", "24 random directions of it", "pixels", "Omniglot's pixels")


def load(name: str) -> torch.Tensor:
    """Features [classes, images, d] of length one."""
    if name == NAMES[0]:
        return normalize(_lite(), dim=-1)
    if name == NAMES[1]:
        features = normalize(_lite(), dim=-1)
        directions = torch.randn(features.shape[-1], 24, generator=torch.Generator().manual_seed(5))
        return normalize((features - features.mean((0, 1))) @ directions, dim=-1)
    if name == NAMES[2]:
        pixels = avg_pool2d(_cifar().flatten(0, 1).float() / 255, 4).flatten(1)
        return normalize((pixels - pixels.mean(0)).unflatten(0, (-1, IMAGES)), dim=-1)
    images = read_images(_folder() / "omniglot", 28, 1)
    pixels = 1 - images.images.float() / 255
    pixels = avg_pool2d(avg_pool2d(pixels, 3, 1, 1), 2).flatten(1)
    whole = [label for label, count in enumerate(images.counts.tolist()) if count == 20]
    return normalize(torch.stack([pixels[images.labels == label] for label in whole]), dim=-1)


def draw(
    features: torch.Tensor, classes: int, shots: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples [classes, shots, d] and further images [classes, rest, d] of random classes."""
    chosen = torch.randperm(len(features), generator=generator)[:classes]
    order = torch.stack([torch.randperm(features.shape[1], generator=generator) for _ in range(classes)])
    drawn = features[chosen[:, None], order]
    return drawn[:, :shots], drawn[:, shots:]


def _lite() -> torch.Tensor:
    """EfficientNet-Lite0 at 128 px; nothing of CIFAR-100 was learned from. Half an hour on one core, once."""
    file = _CACHE / "lite0-cifar100.npy"
    if not file.exists():
        seen = Preprocessing(128, (127 / 255,) * 3, (128 / 255,) * 3)
        model = open_backbone("efficientnet-lite0", preprocessing=seen)
        rows = []
        with Progress("embed", 100, "classes") as progress, torch.no_grad():
            for images in _cifar():
                whole = torch.nn.functional.interpolate(images.float(), 128, mode="bicubic", antialias=True)
                rows.append(torch.cat([model.embed(p / 255) for p in whole.clamp(0, 255).round().split(20)]))
                progress.advance()
        _CACHE.mkdir(exist_ok=True)
        np.save(file, torch.stack(rows).numpy())
    return torch.from_numpy(np.load(file))


def _cifar() -> torch.Tensor:
    folder = _folder() / "cifar100"
    sys.path.insert(0, str(folder))
    import unpack  # type: ignore[import-not-found]

    return torch.from_numpy(unpack.load(folder)[1][:, :IMAGES].copy()).permute(0, 1, 4, 2, 3)


def _folder() -> Path:
    return Path(os.environ.get("PAUCA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "fewshot"
