"""Files, and whatever else a caller hands over as images, to pixels; damage is an error with a name."""

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pauca.errors import InputError
from pauca.fewshot.data.arrays import (
    FEWEST_ROWS,
    Fitting,
    check_shape,
    image_from_array,
    pillow_image,
    split_batch,
    to_pixels,
)

HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


def decode_image(
    source: Path | str | bytes,
    size: int | None = None,
    channels: int = 3,
    name: str | None = None,
    fitting: Fitting = "crop",
) -> UInt8[Tensor, "c h w"]:
    """Decode an image to 8-bit color or gray; `data.arrays.to_pixels` says what becomes of depth and transparency.

    Args:
        source: a file, or its bytes.
        size: side of the square that the image is fitted to; None keeps its size.
        channels: 3 for RGB, 1 for gray.
        name: what to call the image in errors; the file's path if not given.
        fitting: `crop` (shorter side scaled, center kept) or `squash` (both sides scaled).

    Raises:
        InputError: the image cannot be read to its end, or has pixels without a known range; names it.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    pixels = decode_array(source if isinstance(source, bytes) else Path(source), size, channels, name, fitting)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def decode_array(
    source: Path | bytes, size: int | None, channels: int, name: str, fitting: Fitting = "crop"
) -> UInt8[np.ndarray, "h w c"]:
    """`decode_image` for many: numpy's order of dimensions, and no tensor made for each image."""
    check_shape(channels, fitting)  # before the file is opened, because only then the message is about the options
    return to_pixels(open_image(source, name), size, channels, fitting, name)


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """Read an image completely, in its own mode.

    Raises:
        InputError: it is missing, truncated or no image; names it.
    """
    _register_heic()
    try:
        with Image.open(source if isinstance(source, Path) else BytesIO(source)) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        if _is_heic(source):
            raise InputError(
                f"{name}: HEIC images need the package pillow-heif (pip install pillow-heif); or save it as JPEG or PNG"
            ) from error
        # Pillow names what it was given, which is the path again, or the address of bytes in memory.
        why = "of no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(
            f"{name}: not readable as an image ({why}); restore or remove the file (--unreadable skip of `pauca "
            'fewshot fit`, `predict` and `data prepare`, in Python unreadable="skip" of `read_images`, leaves such '
            "files out)"
        ) from error


@cache
def _register_heic() -> None:
    """Let Pillow read HEIC where the package for it is installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def _is_heic(source: Path | bytes) -> bool:
    """Whether the first bytes are those of a HEIC file: "ftyp" and its brand."""
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                source = file.read(12)
    except OSError:
        return False
    start = source[:12]
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def load_images(X: Any, size: int, channels: int, fitting: Fitting = "crop") -> UInt8[Tensor, "n c s s"]:
    """Whatever a caller has, as one batch of images of a model's size and channels.

    Args:
        X: a list of paths, encoded bytes, Pillow images, arrays and tensors, in any mixture and of any sizes; or one
            array or tensor [n, h, w], [n, h, w, c] or [n, c, h, w].
        size: side of the square that each image is fitted to.
        channels: 3 for RGB, 1 for gray.
        fitting: `crop` or `squash`.

    Raises:
        InputError: a single image in place of a list, a file that cannot be read, an array that is no image, or values
            out of range or not finite, by number.
    """
    if isinstance(X, str | os.PathLike | bytes | Image.Image):
        kind = f"a single path, {str(X)!r}," if isinstance(X, str | os.PathLike) else "a single image"
        raise InputError(f"{kind} was given for a list of images; put it in a list")
    if not isinstance(X, Tensor | np.ndarray):
        X = list(X)
    if not len(X):
        raise InputError("no images were given")
    if isinstance(X, Tensor) or (isinstance(X, np.ndarray) and X.dtype.kind not in "OUS"):
        return _stack(_fit_batch(X, size, channels, fitting))
    return _stack(to_pixels(_open_any(item, i), size, channels, fitting, f"image {i}") for i, item in enumerate(X))


def _fit_batch(X: np.ndarray | Tensor, size: int, channels: int, fitting: Fitting) -> Iterable[np.ndarray]:
    if X.ndim == 3 and X.shape[0] == channels == 3 and min(X.shape[1:]) >= FEWEST_ROWS:
        raise InputError(
            f"images: an array of shape {tuple(X.shape)} may be one color image or three gray ones; put the one in a "
            "list, or give the three as 3 x 1 x h x w"
        )
    batch = split_batch(X)
    if batch.shape[1:] == (size, size, channels):
        return batch
    return (to_pixels(pillow_image(image), size, channels, fitting, f"image {i}") for i, image in enumerate(batch))


def _open_any(item: Any, position: int) -> Image.Image:
    """One image of a list, in its own mode."""
    if isinstance(item, Image.Image):
        try:
            item.load()  # one that was opened is read only now
        except OSError as error:
            raise InputError(f"image {position}: not readable as an image ({error}); restore or remove it") from error
        return item
    if isinstance(item, np.ndarray | Tensor):
        return image_from_array(item, f"image {position}")
    if isinstance(item, bytes) and not isinstance(item, np.bytes_):
        return open_image(item, f"image {position}")
    if isinstance(item, str | os.PathLike | np.bytes_):
        path = Path(os.fsdecode(item))
        return open_image(path, str(path))
    raise InputError(
        f"image {position}: a {type(item).__name__} is no image; give paths, bytes, Pillow images, arrays or tensors"
    )


def _stack(images: Iterable[UInt8[np.ndarray, "s s c"]]) -> UInt8[Tensor, "n c s s"]:
    pixels = np.stack(list(images))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
