"""Views of an image: which part of it is shown, mirrored or not, turned or not, in what colors.

Rizve et al. (CVPR 2021) train a network to be told which view it sees, and still to see the same thing in all of them.
Their 16 views are four windows (the whole image; about two thirds of the rows, of the columns, of both) in four turns
by 90 degrees. Here every view draws its own window, mirror and colors, on the device, as two small matrix products.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from pauca.errors import ConfigError
from pauca.fewshot.training.augment import AugmentConfig, jitter_colors
from pauca.fewshot.windows import PART_SHOWN, TURNS, Windows, show

VIEWS = 16

ViewCount = Literal[4, 8, 16]


def draw_views(
    images: UInt8[Tensor, "b c s s"], count: ViewCount, config: AugmentConfig
) -> tuple[Float[Tensor, "n c s s"], Int64[Tensor, "n"]]:
    """Views of each image, one image after the other, and which of the `VIEWS` each is.

    The first view of an image shows all of it upright. 4 views are the whole image in four turns; 8 add one of the
    three other windows, drawn for each image, in four turns; 16 are all.

    Args:
        images: square images, as bytes.
        count: views of each image.
        config: mirror, jitter, and how far the window of the whole image may be shifted; fitted to the images.
    """
    kinds = _kinds(len(images), count, images.device)  # [b, v / 4]
    windows = _draw_windows(kinds.repeat_interleave(TURNS, 1).flatten(), images.shape[-1], config)
    pixels = show(images.repeat_interleave(count, 0).float() / 255, windows)
    if config.jitter:
        pixels = jitter_colors(pixels, config.jitter)
    by_turn = pixels.unflatten(0, (-1, TURNS))
    turned = torch.stack([torch.rot90(by_turn[:, turn], turn, (2, 3)) for turn in range(TURNS)], 1)
    numbers = kinds[:, :, None] * TURNS + torch.arange(TURNS, device=images.device)
    return turned.flatten(0, 1), numbers.flatten()


def _kinds(images: int, count: int, device: torch.device) -> Int64[Tensor, "b groups"]:
    """Which windows are shown of each image: 0 the whole, 1 fewer rows, 2 fewer columns, 3 both."""
    if count == VIEWS:
        return torch.arange(4, device=device).expand(images, 4)
    whole = torch.zeros(images, 1, dtype=torch.int64, device=device)
    return whole if count == TURNS else torch.cat([whole, torch.randint(1, 4, (images, 1), device=device)], 1)


def _draw_windows(kinds: Int64[Tensor, "n"], size: int, config: AugmentConfig) -> Windows:
    if config.crop_padding is None or config.flip is None:
        raise ConfigError("augmentation that leaves crop_padding or flip to the data needs fitted_to(images) first")
    count, device = len(kinds), kinds.device
    part = round(PART_SHOWN * size)
    first_row, rows = _draw_side((kinds & 1) > 0, size, part, config.crop_padding)
    first_column, columns = _draw_side((kinds & 2) > 0, size, part, config.crop_padding)
    mirrored = torch.rand(count, device=device) < (0.5 if config.flip else 0.0)
    return Windows(first_row, rows, first_column, columns, mirrored)


def _draw_side(
    in_part: Bool[Tensor, "n"], size: int, part: int, padding: int
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Where a side of each window begins, and its length: a part somewhere inside, or the whole, shifted."""
    count, device = len(in_part), in_part.device
    inside = torch.randint(0, size - part + 1, (count,), device=device)
    shifted = torch.randint(-padding, padding + 1, (count,), device=device)
    first = torch.where(in_part, inside, shifted).float()
    return first, torch.where(in_part, float(part), float(size)).to(first)
