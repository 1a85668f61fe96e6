"""One encoded image to pixels, whatever its mode, without surprises."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from pauca.errors import ConfigError, InputError


def decode_image(
    source: Path | bytes, size: int | None = None, channels: int = 3, name: str | None = None
) -> UInt8[Tensor, "c h w"]:
    """Decode an image to 8-bit colour or grey.

    16-bit pixels are scaled to 8 bits, transparency is laid on white, the orientation that a camera noted is applied.

    Args:
        source: a file, or its bytes.
        size: side of the square that the image is fitted to (shorter side scaled, centre kept); None keeps its size.
        channels: 3 for RGB, 1 for grey.
        name: what to call the image in errors; the file's path if not given.

    Raises:
        InputError: the image cannot be read to its end, or has pixels without a known range; names it.
    """
    if channels not in (1, 3):
        raise ConfigError(f"{channels} image channels; use 3 for colour or 1 for grey")
    pixels = decode_array(source, size, channels, name or (str(source) if isinstance(source, Path) else "image"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def decode_array(source: Path | bytes, size: int | None, channels: int, name: str) -> UInt8[np.ndarray, "h w c"]:
    """`decode_image` for many: numpy's order of dimensions, and no tensor made for each image."""
    if channels not in (1, 3):
        raise ConfigError(f"{channels} image channels; use 3 for colour or 1 for grey")
    image = _to_eight_bits(open_image(source, name), name).convert("RGB" if channels == 3 else "L")
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.array(image).reshape(image.height, image.width, channels)


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """Read an image completely, in its own mode.

    Raises:
        InputError: it is missing, truncated or no image; names it.
    """
    try:
        with Image.open(source if isinstance(source, Path) else BytesIO(source)) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InputError(
            f"{name}: not readable as an image ({error}); restore or remove the file (`pauca fewshot data prepare` and "
            "`predict` leave such files out with --unreadable skip)"
        ) from error


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{name}: has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name}: has 32-bit pixels up to {values.max()}; save it with 8 or 16 bits")
        # 65535 = 255 * 257. Pillow's own conversion would cut everything above 255 off.
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured)
    return image
