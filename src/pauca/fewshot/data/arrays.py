"""Pixels for a model: every mode and depth to 8 bits, and the one place where an image is fitted to a square.

Whatever an image comes as (a file, its bytes, an open Pillow image, an array or a tensor), it becomes a Pillow image
and passes through `to_pixels`, so that the same image gives the same pixels.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from pauca.errors import ConfigError, InputError

# How an image that is not square becomes one. `crop`: its shorter side is scaled to the square's and what stands out at
# both ends of the longer one is cut off; `squash`: both sides are scaled, so that all of it is seen, out of proportion.
Fitting = Literal["crop", "squash"]

_CHANNELS = (1, 2, 3, 4)  # gray, gray with transparency, color, color with transparency
_LEAST_OF_16_BITS = 1 << 12  # sensors of 10 and 12 bits stay below, and bytes in wider numbers; of 8 bits 4 are left
FEWEST_ROWS = 5  # an array whose last two sides are no longer than this is taken for tiny images, not for channels


def to_pixels(
    image: Image.Image, size: int | None, channels: int, fitting: Fitting = "crop", name: str = "image"
) -> UInt8[np.ndarray, "h w c"]:
    """8-bit color or gray pixels of an image of any mode.

    16-bit pixels keep their upper 8 bits (as Pillow reads them where there are colors), transparency is laid on white,
    the orientation that a camera noted is applied, palettes are looked up. 16-bit pixels that all lie below a sixteenth
    of the range are refused: 12 bits, or bytes, in wider numbers.

    Args:
        image: in any mode.
        size: side of the square that the image is fitted to; None keeps its size.
        channels: 3 for RGB, 1 for gray.
        fitting: `crop` or `squash`, see `Fitting`.
        name: what to call the image in errors.

    Raises:
        ConfigError: other channels or another fitting.
        InputError: pixels without a known range or meaning.
    """
    check_shape(channels, fitting)
    image = plain_image(image, name)
    image = image.convert("RGB" if channels == 3 else "L")
    if size is not None and image.size != (size, size):
        if fitting == "crop":
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image).reshape(image.height, image.width, channels)


def check_shape(channels: int, fitting: Fitting) -> None:
    """Refuse what no image can be made to.

    Raises:
        ConfigError: channels other than 1 and 3, or a fitting that is not known.
    """
    if channels not in (1, 3):
        raise ConfigError(f"{channels} image channels; use 3 for color or 1 for gray")
    if fitting not in get_args(Fitting):
        raise ConfigError(f"fitting {fitting!r} is not known; choose one of {', '.join(get_args(Fitting))}")


def plain_image(image: Image.Image, name: str) -> Image.Image:
    """The image upright, in 8 bits, in mode L or RGB.

    Raises:
        InputError: pixels without a known range or meaning.
    """
    # Only where something is to be changed: each copy of a photograph of 12 megapixels takes 48 MB.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{name}: has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name}: has 32-bit pixels up to {values.max()}; save it with 8 or 16 bits")
        return Image.fromarray(_upper_bits(values, name))  # Pillow's own conversion would cut off all above 255
    try:
        if image.has_transparency_data:
            colored = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colored).convert("RGB")
        return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    except ValueError as error:
        raise InputError(
            f"{name}: has mode {image.mode}, which Pillow cannot turn into colors; save it as RGB or gray"
        ) from error


def eight_bits(values: Shaped[np.ndarray, "*any"], name: str = "images") -> UInt8[np.ndarray, "*any"]:
    """Pixels of 8 or 16 bits, floating from 0 to 1, or true and false, as bytes.

    Raises:
        InputError: another type, or values that are not finite or out of range; names the first image of a batch.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return _upper_bits(values, name)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{name}: pixels of type {values.dtype}; give uint8, uint16, or floating from 0 to 1")
    usable = np.isfinite(values) & (values >= 0) & (values <= 1)
    if not usable.all():
        first = np.argwhere(~usable)[0]
        where = f"image {first[0]} holds" if values.ndim == 4 else "holds"
        raise InputError(
            f"{name}: {where} the value {values[tuple(first)]}; floating pixels must be finite, from 0 to 1"
        )
    return np.rint(values * 255).astype(np.uint8)


def _upper_bits(values: Shaped[np.ndarray, "*any"], name: str) -> UInt8[np.ndarray, "*any"]:
    """The upper 8 of 16 bits.

    Raises:
        InputError: what is left would be nearly black, as of bytes or 12 bits in wider numbers.
    """
    largest = int(values.max(initial=0))
    if 0 < largest < _LEAST_OF_16_BITS:
        raise InputError(
            f"{name}: no pixel of its 16 bits lies above {largest:,} of 65,535, so that it would be nearly black; "
            "scale the pixels to the full range, or give 8 bits"
        )
    return (values >> 8).astype(np.uint8)


def as_numpy(images: np.ndarray | Tensor) -> np.ndarray:
    """The array, or the tensor's values, on the host."""
    if not isinstance(images, Tensor):
        return images
    detached = images.detach().cpu()
    return (detached.float() if detached.is_floating_point() else detached).numpy()


def split_batch(
    images: Shaped[np.ndarray, "n *rest"] | Shaped[Tensor, "n *rest"], name: str = "images"
) -> UInt8[np.ndarray, "n h w c"]:
    """A batch of gray [n, h, w] or any [n, h, w, c] or [n, c, h, w] images as bytes, channels last.

    Raises:
        InputError: another shape, one color image in place of a batch, or values that are no pixels.
    """
    shape = tuple(images.shape)
    if len(shape) == 3 and shape[2] in (3, 4) and shape[1] >= FEWEST_ROWS:
        raise InputError(
            f"{name}: an array of shape {shape} is one color image and not a batch; put it in a list, or give it a "
            "first dimension of 1"
        )
    pixels = as_numpy(images)
    if len(shape) == 3:
        pixels = pixels[..., None]
    elif len(shape) == 4 and (shape[1] in (1, 3) or (shape[1] in _CHANNELS and shape[3] not in _CHANNELS)):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[3] not in _CHANNELS or not pixels.size:
        raise InputError(
            f"{name}: an array of shape {shape} is no set of images; give n x h x w, n x h x w x 3 or n x 3 x h x w"
        )
    return eight_bits(pixels, name)


def image_from_array(pixels: Shaped[np.ndarray, "*rest"] | Shaped[Tensor, "*rest"], name: str) -> Image.Image:
    """One gray [h, w] or any [h, w, c] or [c, h, w] image as a Pillow image.

    Raises:
        InputError: another shape, or values that are no pixels.
    """
    values = as_numpy(pixels)
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim == 3 and values.shape[2] not in _CHANNELS:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in _CHANNELS or not values.size:
        raise InputError(
            f"{name}: an array of shape {tuple(pixels.shape)} is no image; give h x w, h x w x 3, 3 x h x w"
        )
    return pillow_image(eight_bits(values, name))


def pillow_image(pixels: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """Bytes of 1 to 4 channels as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
