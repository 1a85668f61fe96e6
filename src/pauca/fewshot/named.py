"""What a command line calls a model: a file, any backbone, or a table of features; opened with clear errors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from pauca.errors import ConfigError, InputError
from pauca.fewshot.data.features import load_features
from pauca.fewshot.latent import draws_at_test
from pauca.fewshot.model import MCRNet
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features, open_backbone
from pauca.fewshot.pretrained.opening import open_model
from pauca.fewshot.types import ImageSet
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest

MapMethod = Literal["tsne", "umap"]
BaseLearnerName = Literal["ridge", "svm", "prototypes", "logistic", "cosine"]


def named_parts(verb: str, backbone: str | None, model: str, data: str | None) -> tuple[str, str]:
    """The model and the data, where `--backbone` may stand for the model, and data alone before it.

    Raises:
        ConfigError: both or neither are named.
    """
    if backbone is not None and data is not None:
        raise ConfigError(
            f"{verb} {model} {data} --backbone {backbone}: --backbone takes the place of {model}; leave one out"
        )
    if backbone is not None:
        return backbone, model
    if data is None:
        raise ConfigError(f"{verb} {model}: no data are named; give what to test on behind the model, or --backbone")
    return model, data


def open_tested(
    name: str, base_learner: str | None, test_code: str | None
) -> tuple[FewShotModel, Float32[Tensor, "n d"] | None]:
    """A model by its name, and its features where the name is that of a .npy file.

    Raises:
        InputError: there is no such model or file.
        ConfigError: a test code for a model without a latent space, one that draws for a model that does not, or the
            word `features`, which says not which.
    """
    if name == "features":
        raise ConfigError("features: give the .npy file that holds them, a row for each of the data's images")
    if name.endswith(".npy"):
        return Features(base_learner or "ridge"), normalize(torch.from_numpy(load_features(name)).float(), dim=1)
    # A file that is not there is called missing, and not an unknown form of backbone.
    model = (open_model if name.endswith(".safetensors") else open_backbone)(name, base_learner)
    if test_code is not None:
        if not isinstance(model, MCRNet):
            raise ConfigError(f"--test-code {test_code}: {name} has no latent space to read; leave it out")
        if model.config.latent.mode == "deterministic" and draws_at_test(test_code):
            raise ConfigError(
                f"--test-code {test_code}: {name} draws no codes (latent mode deterministic); leave it out"
            )
        model.config = replace(model.config, latent=replace(model.config.latent, test_code=test_code))
    return model, None


def open_for_images(name: str, base_learner: str | None) -> FewShotModel:
    """A model by its name, to classify images of one's own.

    Raises:
        InputError: there is no such model or file.
        ConfigError: it is a file of features, which images of one's own have not.
    """
    if name.endswith(".npy") or name == "features":
        raise ConfigError(
            f"{name}: features take the place of images, and here images are given; name a network, or in Python use "
            'FewShotClassifier(backbone="features")'
        )
    return open_tested(name, base_learner, None)[0]


def rows_for(
    features: Float32[Tensor, "n d"], images: ImageSet, name: str, views: ViewsAtTest
) -> Float32[Tensor, "n d"]:
    """The features, if there is one row for each image.

    Raises:
        InputError: there are more or fewer.
        ConfigError: they are to be seen in views, and are no images.
    """
    if views != AS_IT_IS:
        raise ConfigError(f"{name}: holds features, which have no views; leave out --mirror, --crops and --turns")
    if len(features) != len(images):
        raise InputError(
            f"{name}: holds features of {len(features)} images, but {images.name} has {len(images)}; compute them for "
            "the images in the order of their classes' and their own names"
        )
    return features


def short_name(name: str) -> str:
    """For a folder: every training calls its model best.safetensors, and the name of its run says more."""
    path = Path(name)
    if path.parent.name == "checkpoints":
        return path.parent.parent.name
    return re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem if path.suffix else path.name)
