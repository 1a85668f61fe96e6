"""What a simulated camera looks at: log intensity in every direction, kept on the six faces of a cube."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.kernels.simulate import add_lattice_noise, directions, draw_polygon

Scene = Literal["texture", "shapes"]
Faces = Float[np.ndarray, "6 side side"]
"""Log intensity, float32, on the faces +x, -x, +y, -y, +z, -z (x right, y down, z forward), each with a border."""

_DARK = 0.02  # added to intensity before the logarithm: what a pixel sees in the dark (stray light, dark current)
_OCTAVES = 5
_TABLE = 32  # cells after which the lattice of random values repeats


def texture_panorama(texels: int, pixels_per_radian: float, rng: np.random.Generator) -> Faces:
    """Cloudy texture without preferred directions: octaves of lattice noise, from 3 to 50 pixels across.

    Args:
        texels: texels along each face of the cube.
        pixels_per_radian: of the camera that will look, so that its finest details are three pixels wide.
        rng: what decides.
    """
    points = directions(texels)
    out = np.zeros(points.shape[:-1], np.float32)
    for octave in range(_OCTAVES):
        cell_pixels = 3.0 * 2**octave
        table = rng.standard_normal((_TABLE,) * 3)
        frame = _random_frame(rng)
        amplitude = 0.2 * 2 ** (octave / 2)  # power over frequency as in photographs of natural scenes, roughly
        add_lattice_noise(
            out.reshape(-1), points.reshape(-1, 3), frame, pixels_per_radian / cell_pixels, amplitude, table
        )
    return out


def shapes_panorama(texels: int, pixels_per_radian: float, rng: np.random.Generator, count: int = 150) -> Faces:
    """Flat convex polygons of 20 to 60 pixels, three to eight corners, in any brightness, on a flat background."""
    points = directions(texels)
    out = np.zeros(points.shape[:-1], np.float32)
    rim = max(1.5 / pixels_per_radian, 2.0 / texels)  # as sharp as a lens draws, and as the texels can hold
    for _ in range(count):
        frame = _random_frame(rng)
        corners = rng.integers(3, 9)
        angles = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * math.pi / corners
        radius = rng.uniform(10, 30) / pixels_per_radian
        vertices = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        level = rng.choice([-1, 1]) * rng.uniform(0.5, 1.5)
        draw_polygon(out.reshape(-1), points.reshape(-1, 3), frame[2], frame[0], vertices, rim, level)
    return out


def _random_frame(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    return Rotation.from_quat(rng.standard_normal(4)).as_matrix()  # uniform over all rotations


def read_gray(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The gray pixels of an image file.

    Raises:
        InputError: where it is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None


def image_panorama(pixels: UInt8[np.ndarray, "h w"], texels: int) -> Faces:
    """The user's own image all around: equirectangular where it is twice as wide as high, else mirrored to a tiling.

    An image of other proportions covers a quarter of the horizon and is repeated in mirrors, which leaves no seams.
    The middle of the image is straight ahead.
    """
    from PIL import Image

    light = Image.fromarray((pixels.astype(np.float32) / 255) ** 2.2)
    whole = abs(light.width / light.height - 2) < 0.02
    span = 2 * math.pi if whole else math.pi / 2
    width = max(2, min(light.width, math.ceil(span * texels / 2)))  # finer than the texels would only alias
    height = max(2, round(light.height * width / light.width))
    light = light.resize((width, height), Image.Resampling.BOX)  # the mean of the light, without ringing at edges
    return _wrap(np.log(np.asarray(light) + np.float32(_DARK)), span, mirrored=not whole, texels=texels)


def _wrap(image: Float[np.ndarray, "h w"], span: float, mirrored: bool, texels: int) -> Faces:
    height, width = image.shape
    points = directions(texels)
    longitude = np.arctan2(points[..., 0], points[..., 2])
    latitude = np.arcsin(np.clip(points[..., 1], -1, 1))
    column = longitude / span * width + (width - 1) / 2
    row = latitude / span * width + (height - 1) / 2
    row = _reflect(row, height)
    column = _reflect(column, width) if mirrored else column % width
    i = np.clip(row.astype(int), 0, height - 2)
    j = column.astype(int)
    right = np.minimum(j + 1, width - 1) if mirrored else (j + 1) % width
    j = np.minimum(j, width - 1)
    a, b = column - j, row - i
    upper = (1 - a) * image[i, j] + a * image[i, right]
    lower = (1 - a) * image[i + 1, j] + a * image[i + 1, right]
    return ((1 - b) * upper + b * lower).astype(np.float32)


def _reflect(position: np.ndarray, length: int) -> np.ndarray:
    """Positions mirrored at the outer edges of the first and the last pixel, as often as needed."""
    folded = np.mod(position + 0.5, 2.0 * length)
    return np.clip(np.minimum(folded, 2.0 * length - folded) - 0.5, 0, length - 1)
