"""Feature networks that need no training, in the place of a backbone: directions of edges, and blurred pixels.

They are the baselines that a trained network has to beat; for a handful of simple shapes they are enough.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_DIRECTIONS = 8  # of edges, over half a turn: an edge from dark to bright is one from bright to dark
_CELLS = 8  # along each side of the image
_LENGTH = 10.0  # of every feature vector: with it ridge regression's penalty of 50 is neither all nor nothing
_FLAT = 0.1  # of an image's strongest cell: what is weaker is noise, and is not scaled up


class EdgeDirections(nn.Module):
    """How strong edges of each direction are in each cell of the image (Dalal and Triggs, CVPR 2005, simplified).

    The image is smoothed, each gradient shared by the two nearest directions and by the cells around it, each cell
    scaled by its own strength; the features of an image have length 10.
    """

    smooth: Tensor
    spread: Tensor

    def __init__(self, channels_in: int, image_size: int) -> None:
        super().__init__()
        self.cell = max(1, image_size // _CELLS)
        sigma = 0.7 * image_size / 32  # pixels; measured best between 0.3 and 1.2 of 32 pixels
        self.register_buffer("smooth", _bell(sigma), persistent=False)
        self.register_buffer("spread", _bell(self.cell / 2), persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        gray = _blurred(images.mean(1, keepdim=True), self.smooth)
        right, down = (torch.gradient(gray, dim=dimension)[0] for dimension in (3, 2))
        strength = torch.hypot(right, down)
        place = torch.atan2(down, right).remainder(math.pi) / math.pi * _DIRECTIONS
        numbers = torch.arange(_DIRECTIONS, device=images.device).view(1, -1, 1, 1)
        away = (place - numbers).abs()
        share = (1 - torch.minimum(away, _DIRECTIONS - away)).clamp(min=0)
        half = self.cell // 2
        cells = _blurred(strength * share, self.spread)[:, :, half :: self.cell, half :: self.cell]
        floor = _FLAT * cells.amax((1, 2, 3), keepdim=True)
        scaled = cells / (cells.square().sum(1, keepdim=True).sqrt() + floor + 1e-6)
        return _LENGTH * functional.normalize(scaled.sqrt().flatten(1), dim=1)


class BlurredPixels(nn.Module):
    """The image itself, smoothed and at half its size; the features of an image have length 10."""

    smooth: Tensor

    def __init__(self, channels_in: int, image_size: int) -> None:
        super().__init__()
        self.register_buffer("smooth", _bell(image_size / 32), persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        least = images.amin((1, 2, 3), keepdim=True)  # what is black, wherever normalization has put it
        return _LENGTH * functional.normalize(_blurred(images - least, self.smooth)[..., ::2, ::2].flatten(1), dim=1)


def _bell(sigma: float) -> Float[Tensor, "taps"]:
    reach = max(1, math.ceil(3 * sigma))
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return bell / bell.sum()


def _blurred(maps: Float[Tensor, "b c h w"], bell: Float[Tensor, "taps"]) -> Float[Tensor, "b c h w"]:
    """Smoothed along both sides; beyond the edge is what is at the edge."""
    channels, reach = maps.shape[1], len(bell) // 2
    padded = functional.pad(maps, (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, bell.to(maps.dtype).view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return functional.conv2d(across, bell.to(maps.dtype).view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
