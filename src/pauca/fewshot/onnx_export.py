"""A fitted classifier as one ONNX graph: images in, probabilities and distances out."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from pauca.errors import ConfigError
from pauca.fewshot.answers.learned import Learned
from pauca.fewshot.latent import draws_at_test
from pauca.fewshot.model import MCRNet
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features, Preprocessing, Pretrained
from pauca.fewshot.pretrained.onnx_networks import PREPROCESSING, OnnxNetwork
from pauca.fewshot.pretrained.packages import need
from pauca.fewshot.views_at_test import ViewsAtTest
from pauca.runs import atomic_write


class ClassifierGraph(nn.Module):
    """What a fitted classifier does once the images are fitted to its model."""

    def __init__(self, learned: Learned, temperature: float, views: ViewsAtTest) -> None:
        super().__init__()
        self.device = learned.model.mean.device
        self.model, self.features = learned.model.cpu(), learned.examples.features.cpu()
        self.views, self.temperature = views, temperature
        self.fitted = self.model.fitted(self.features[None], learned.examples.targets.cpu()[None], learned.way)
        self.means = nn.functional.normalize(learned.means.sums.cpu(), dim=1)

    def forward(self, images: Shaped[Tensor, "n *shape"]) -> tuple[Tensor, Tensor]:
        features = self.model.embed(images, views=self.views).double()
        logits = self.fitted(features[None])[0] / self.temperature
        distances = 1 - (nn.functional.normalize(features, dim=1) @ self.means.mT).amax(1)
        return logits.softmax(-1).float(), distances.float()


@torch.no_grad()
def export_graph(
    graph: ClassifierGraph,
    classes: Shaped[np.ndarray, "n"],
    threshold: float | None,
    path: Path | str,
    force: bool = True,
) -> None:
    """Write a fitted classifier as an ONNX graph.

    Its input `images` takes bytes [n, channels, size, size], fitted as its metadata says under `pauca.preprocessing`;
    with the backbone `features` it takes `features` [n, d]. Its outputs are `probabilities` [n, classes] and
    `distances` [n]. The metadata also has `pauca.classes` and, where the classifier rejects, `pauca.threshold`.

    Raises:
        ConfigError: the model draws samples, or is a graph already.
        DeviceError: the packages for it are missing.
    """
    onnx = need("onnx", "onnx", "to export a classifier")
    need("onnxscript", "onnx", "to export a classifier")
    model = graph.model
    if isinstance(model, Pretrained) and isinstance(model.network, OnnxNetwork):
        raise ConfigError(
            "a classifier whose backbone is an ONNX graph cannot be exported again; deploy the two as they are"
        )
    if isinstance(model, MCRNet) and model.stem is not None and draws_at_test(model.config.latent.test_code):
        raise ConfigError(
            f"test code {model.config.latent.test_code} draws samples; export a model with test code mean"
        )
    config = model.config
    taken = "features" if isinstance(model, Features) else "images"
    if isinstance(model, Features):
        example = torch.rand(2, graph.features.shape[1], dtype=torch.float64)
    else:
        example = torch.zeros(2, config.channels, config.image_size, config.image_size, dtype=torch.uint8)
    with atomic_write(Path(path), force) as temporary, _quiet():
        torch.onnx.export(
            graph.eval(),
            (example,),
            temporary,
            input_names=[taken],
            output_names=["probabilities", "distances"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        written = onnx.load(temporary)
        onnx.helper.set_model_props(written, _metadata(model, classes, threshold))
        onnx.save(written, temporary)
    model.to(graph.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch's exporter: they are about torch's own code, and torchvision that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _metadata(model: FewShotModel, classes: Shaped[np.ndarray, "n"], threshold: float | None) -> dict[str, str]:
    config = model.config
    words: dict[str, Any] = {"pauca.classes": json.dumps(classes.tolist())}
    if not isinstance(model, Features):
        # The graph normalizes by itself: it takes bytes.
        zeros, ones = (0.0,) * config.channels, (1.0,) * config.channels
        words[PREPROCESSING] = json.dumps(asdict(Preprocessing(config.image_size, zeros, ones, config.fitting)))
    if threshold is not None:
        words["pauca.threshold"] = repr(threshold)
    return words
