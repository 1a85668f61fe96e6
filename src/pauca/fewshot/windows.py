"""The part of an image that a view shows, enlarged to the size of the image: in training and at test time."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TURNS = 4  # by quarters
CROPS = 7  # at test time
PART_SHOWN = 22 / 32  # of a side, where a window does not show all of it


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
    """The parts of `count` images that are seen at test time: middle and corners; and the middle rows, and columns."""
    part = float(round(PART_SHOWN * size))
    rest, whole = size - part, float(size)
    squares = [(rest / 2, part, rest / 2, part)]
    squares += [(row, part, column, part) for row in (0.0, rest) for column in (0.0, rest)]
    sides = [(rest / 2, part, 0.0, whole), (0.0, whole, rest / 2, part)]
    return [window_of_all(*place, count, device) for place in squares + sides]


def window_of_all(
    first_row: float, rows: float, first_column: float, columns: float, count: int, device: torch.device
) -> Windows:
    """One window for `count` images."""
    top, height, left, width = (
        torch.full((count,), side, device=device) for side in (first_row, rows, first_column, columns)
    )
    return Windows(top, height, left, width, torch.zeros(count, dtype=torch.bool, device=device))
