"""Random crop, flip and color jitter of whole batches on the device, each image with its own draw.

Everything is a tensor operation, so torch.compile fuses it and no image passes through the host. The draws come from
torch's generator of the device; training seeds it anew for every step, which is what makes a resumed run repeat.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from pauca.errors import ConfigError
from pauca.fewshot.types import ImageSet


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of the augmentation of training images. What is not given fits the data: for photographs it is the
    paper's, for characters, which fill their image and mean something else in the mirror, less."""

    crop_padding: int | None = None
    """Pixels of black added to every side of a training image, before a crop of the image's own size is cut from it. If
    not given: an eighth of the side of photographs (4 at 32 pixels; 8 at 84), a sixteenth of that of characters."""
    jitter: float = 0.4
    """Brightness, contrast and saturation are multiplied by factors between 1 - jitter and 1 + jitter."""
    flip: bool | None = None
    """Mirror a training image, left and right, with probability one half. If not given: photographs, no characters."""
    turned_classes: float = 0.0
    """Share of an episode's classes turned by 90, 180 or 270 degrees, which counts them as new classes (Liu et al.,
    "Task Augmentation by Rotating for Meta-Learning", 2020). Not part of the paper's protocol."""

    def __post_init__(self) -> None:
        if self.crop_padding is not None and self.crop_padding < 0:
            raise ConfigError(f"crop_padding {self.crop_padding}: give 0 or more pixels")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter {self.jitter}: give a number from 0 up to, not including, 1")
        if not 0 <= self.turned_classes <= 1:
            raise ConfigError(f"turned_classes {self.turned_classes}: give a share from 0 to 1")

    def fitted_to(self, images: ImageSet) -> "AugmentConfig":
        """The same with everything given, what was not by the content and the size of the images."""
        characters = images.content == "characters"
        padding = self.crop_padding
        if padding is None:
            padding = images.images.shape[-1] // 16 if characters else _photograph_padding(images.images.shape[-1])
        return replace(self, crop_padding=padding, flip=not characters if self.flip is None else self.flip)

    def describe(self) -> str:
        """What is done to the training images, in words; of a config with everything given."""
        mirrored = "half of them mirrored" if self.flip else "none mirrored"
        words = f"crops shifted by up to {self.crop_padding} px, {mirrored}, colors x (1 ± {self.jitter:g})"
        return words + (f", {100 * self.turned_classes:g} % of the classes turned" if self.turned_classes else "")


def _photograph_padding(size: int) -> int:
    """The paper's 4 at 32 pixels and 8 at 84, and in proportion."""
    return size // 8 if size <= 64 else round(size * 8 / 84)


def augment(images: UInt8[Tensor, "b c h w"], config: AugmentConfig) -> Float[Tensor, "b c h w"]:
    """Crop, flip and jitter each image; values from 0 to 1, channels last in memory.

    Raises:
        ConfigError: the config leaves something to the data; call `fitted_to` first.
    """
    if config.crop_padding is None or config.flip is None:
        raise ConfigError("augmentation that leaves crop_padding or flip to the data needs fitted_to(images) first")
    pixels = _crop_and_flip(images, config.crop_padding, config.flip)
    return jitter_colors(pixels, config.jitter) if config.jitter else pixels


def _crop_and_flip(images: UInt8[Tensor, "b c h w"], padding: int, flip: bool) -> Float[Tensor, "b c h w"]:
    """One gather does both: every output pixel is told the row and column that it comes from."""
    count, _, height, width = images.shape
    device = images.device
    shift = torch.randint(-padding, padding + 1, (2, count, 1), device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = torch.arange(height, device=device) + shift[0]
    columns = columns + shift[1]
    rows_inside = (rows >= 0) & (rows < height)
    columns_inside = (columns >= 0) & (columns < width)
    inside = rows_inside[:, :, None] & columns_inside[:, None, :]
    image = torch.arange(count, device=device)[:, None, None]
    gathered = images[image, :, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return (gathered * inside[..., None] / 255).permute(0, 3, 1, 2)


def jitter_colors(pixels: Float[Tensor, "b c h w"], strength: float) -> Float[Tensor, "b c h w"]:
    """Blend with black (brightness), the mean gray (contrast) and the image's own gray (saturation), in this order."""
    factors = 1 + strength * (2 * torch.rand(3, len(pixels), 1, 1, 1, device=pixels.device) - 1)
    pixels = (pixels * factors[0]).clamp(0, 1)
    mean_gray = _gray(pixels).mean(dim=(2, 3), keepdim=True)
    pixels = torch.lerp(mean_gray, pixels, factors[1]).clamp(0, 1)
    if pixels.shape[1] == 1:
        return pixels
    return torch.lerp(_gray(pixels), pixels, factors[2]).clamp(0, 1)


def _gray(pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """Luma of ITU-R 601, as Pillow computes gray."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def turn_classes(
    images: UInt8[Tensor, "e n c s s"], labels: Int64[Tensor, "e n"], way: int, share: float
) -> UInt8[Tensor, "e n c s s"]:
    """Turn all images of some classes by one quarter turn or more, so that an episode holds classes never seen upright.

    Args:
        images: square images of each episode, support and query together.
        labels: their labels; padding may be turned like any class.
        way: number of classes of an episode.
        share: expected share of classes that are turned.
    """
    episodes = len(images)
    turned = torch.rand(episodes, way, device=images.device) < share
    turns = torch.randint(1, 4, (episodes, way), device=images.device) * turned
    turn_of_image = turns.gather(1, labels.clamp_min(0))[..., None, None, None]
    result = images
    for quarter_turns in (1, 2, 3):
        rotated = torch.rot90(images, quarter_turns, (3, 4))
        result = torch.where(turn_of_image == quarter_turns, rotated, result)
    return result
