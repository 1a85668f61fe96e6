"""A fitted classifier as one ONNX graph: images in, probabilities and distances out."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from pauca.errors import ConfigError
from pauca.fewshot.latent import draws_at_test
from pauca.fewshot.model import MCRNet
from pauca.fewshot.pretrained import Features, Preprocessing, Pretrained
from pauca.fewshot.pretrained.onnx_networks import PREPROCESSING, OnnxNetwork
from pauca.fewshot.pretrained.packages import need
from pauca.runs import atomic_write

if TYPE_CHECKING:
    from pauca.fewshot.estimator import FewShotClassifier


class _Graph(nn.Module):
    """What the classifier does once the images are fitted to the model."""

    def __init__(self, classifier: "FewShotClassifier") -> None:
        super().__init__()
        self.model = classifier.model_.cpu()
        self.mirror = classifier.mirror
        self.temperature = classifier.temperature_
        self.fitted = self.model.fitted(
            classifier.features_.cpu()[None], classifier.targets_.cpu()[None], len(classifier.classes_)
        )
        self.means = nn.functional.normalize(classifier._means.sums.cpu(), dim=1)

    def forward(self, images: Shaped[Tensor, "n *shape"]) -> tuple[Tensor, Tensor]:
        features = self.model.embed(images, None, self.mirror).double()
        logits = self.fitted(features[None])[0] / self.temperature
        distances = 1 - (nn.functional.normalize(features, dim=1) @ self.means.mT).amax(1)
        return logits.softmax(-1).float(), distances.float()


@torch.no_grad()
def export_classifier(classifier: "FewShotClassifier", path: Path | str, force: bool = True) -> None:
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
    model = classifier.model_
    if isinstance(model, Pretrained) and isinstance(model.network, OnnxNetwork):
        raise ConfigError(
            "a classifier whose backbone is an ONNX graph cannot be exported again; deploy the two as they are"
        )
    if isinstance(model, MCRNet) and model.stem is not None and draws_at_test(model.config.latent.test_code):
        raise ConfigError(
            f"test code {model.config.latent.test_code} draws samples; export a model with test code mean"
        )
    device = model.mean.device
    config = model.config
    taken = "features" if isinstance(model, Features) else "images"
    if isinstance(model, Features):
        example = torch.rand(2, classifier.features_.shape[1], dtype=torch.float64)
    else:
        example = torch.zeros(2, config.channels, config.image_size, config.image_size, dtype=torch.uint8)
    with atomic_write(Path(path), force) as temporary, _quiet():
        torch.onnx.export(
            _Graph(classifier).eval(),
            (example,),
            temporary,
            input_names=[taken],
            output_names=["probabilities", "distances"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(temporary)
        onnx.helper.set_model_props(graph, _metadata(classifier))
        onnx.save(graph, temporary)
    model.to(device)


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


def _metadata(classifier: "FewShotClassifier") -> dict[str, str]:
    config = classifier.model_.config
    words: dict[str, Any] = {"pauca.classes": json.dumps(classifier.classes_.tolist())}
    if not isinstance(classifier.model_, Features):
        # The graph normalizes by itself: it takes bytes.
        zeros, ones = (0.0,) * config.channels, (1.0,) * config.channels
        words[PREPROCESSING] = json.dumps(asdict(Preprocessing(config.image_size, zeros, ones, config.fitting)))
    if classifier.reject is not None:
        words["pauca.threshold"] = repr(classifier.threshold_)
    return words
