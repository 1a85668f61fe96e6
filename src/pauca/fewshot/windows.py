"""The part of an image that a view shows, enlarged to the size of the image: for training, and for crops at test."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TURNS = 4  # by quarters
CROPS = 5  # at test time
CROP_SHOWN = 26 / 32  # of a side, in each of them


@dataclass(frozen=True)
class Windows:
    """The part that each view shows of its image, in pixels; what lies outside the image is black."""

    first_row: Float[Tensor, "n"]
    rows: Float[Tensor, "n"]
    first_column: Float[Tensor, "n"]
    columns: Float[Tensor, "n"]
    mirrored: Bool[Tensor, "n"]


def show(pixels: Float[Tensor, "n c h w"], windows: Windows) -> Float[Tensor, "n c h w"]:
    """Each image's window, enlarged to the size of the image by linear interpolation."""
    height, width = pixels.shape[2:]
    rows = _interpolation(windows.first_row, windows.rows, height)
    columns = _interpolation(windows.first_column, windows.columns, width)
    columns = torch.where(windows.mirrored[:, None, None], columns.flip(1), columns)
    # bfloat16 would round 255 levels to fewer.
    with torch.autocast(pixels.device.type, enabled=False):
        return rows[:, None] @ pixels @ columns.mT[:, None]


def _interpolation(first: Float[Tensor, "n"], length: Float[Tensor, "n"], size: int) -> Float[Tensor, "n out size"]:
    """Weights of the `size` pixels of a side in each pixel of a view of it."""
    places = torch.arange(size, device=first.device, dtype=torch.float32)
    inside = (places + 0.5) * (length / size)[:, None] - 0.5
    sources = inside.clamp(min=0).minimum(length[:, None] - 1) + first[:, None]
    return (1 - (sources[:, :, None] - places).abs()).clamp_min(0)


def windows_at_test(size: int, count: int, device: torch.device) -> list[Windows]:
    """The five crops that are averaged with the whole image at test time, for `count` images: corners and middle."""
    shown = float(round(CROP_SHOWN * size))
    rest = size - shown
    places = [(row, column) for row in (0.0, rest) for column in (0.0, rest)] + [(rest / 2, rest / 2)]
    return [window_of_all(row, column, shown, count, device) for row, column in places]


def window_of_all(row: float, column: float, side: float, count: int, device: torch.device) -> Windows:
    """One square window for `count` images."""

    def full(value: float) -> Float[Tensor, "n"]:
        return torch.full((count,), value, device=device)

    return Windows(full(row), full(side), full(column), full(side), torch.zeros(count, dtype=torch.bool, device=device))
