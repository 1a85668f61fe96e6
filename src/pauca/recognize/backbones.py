"""A vision transformer of FP4 experts as a backbone for few-shot models: where all three systems meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pauca import fewshot

if TYPE_CHECKING:
    from pauca.moe import Recipe

_PATCH = 4  # pixels
_LAYERS, _HIDDEN, _EXPERTS = 2, 64, 4


class MoEFeatures(nn.Module):
    """Features by a small `MoEViT` whose experts keep MXFP4 and compute in FP8.

    It runs on a CPU with the same quantization, slowly: it is meant for a Hopper GPU.

    Args:
        channels_in: of the images.
        image_size: their side, in pixels.
        recipe: the experts' formats; None is `Recipe.fp4()`.
    """

    def __init__(self, channels_in: int, image_size: int, recipe: Recipe | None = None) -> None:
        super().__init__()
        from pauca.moe import MoEViT, Recipe, ViTConfig  # only who uses it needs what it needs

        config = ViTConfig(
            layers=_LAYERS,
            hidden=_HIDDEN,
            experts=_EXPERTS,
            patch=_PATCH,
            channels=channels_in,
            classes=2,
            recipe=recipe or Recipe.fp4(),
        )
        self.network = MoEViT(config)
        self.network.head.requires_grad_(False)  # the base learner classifies
        self.patches = (image_size // _PATCH) ** 2

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        with torch.autocast(images.device.type, enabled=False):
            return self.network.features(images.float())

    def count_multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """Of one image, about: every weight once for each patch."""
        return self.patches * sum(parameter.numel() for parameter in self.network.parameters())


fewshot.BACKBONES.setdefault("moe-vit", MoEFeatures)
