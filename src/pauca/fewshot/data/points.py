"""Points of an image that a crop of it shows, too: blobs of any size, and 64 bits of what is around each.

Blobs are extremes of the difference of Gaussians over place and scale (Lowe, Distinctive image features from
scale-invariant keypoints, 2004). Crops are not turned, so the bits are signs of the low frequencies of the patch as it
stands: of Tiny-ImageNet's patches each bit is set in 49 to 53 %, and two patches of different things agree in 58 of 64
as rarely as chance has it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, UInt64
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter

# Half-size crops that were scaled to the full size again share 4 points with their original in 64 bits, at 128 pixels;
# more pixels cost more time (8 ms an image), fewer leave out crops.
_SIDE = 128
_LARGER = 2  # times that a small image is enlarged
_SMALLEST = 24  # pixels of the longer side; less shows no points
MOST_POINTS = 24
_LEVELS = 3  # scales in an octave
_SCALE = 1.6  # of the first level, in pixels
_CONTRAST = 0.01
_REACH = 4.5  # half the side of a patch, in its scale
_PATCH = 16  # samples along a side
_BITS = 64


@dataclass(frozen=True, eq=False)
class Points:
    """The most distinct points of an image, at most `MOST_POINTS`."""

    hashes: UInt64[np.ndarray, "n"]
    places: Float16[np.ndarray, "n 3"]  # x, y and scale, in pixels of the image as `small` shows it


def small(gray: Image.Image) -> Image.Image:
    """A gray image at the size in which its points are counted."""
    return gray.resize(small_size(*gray.size), Image.Resampling.BICUBIC, reducing_gap=2.0)


def small_size(width: int, height: int) -> tuple[int, int]:
    """The size of `small` of an image of this one."""
    side = max(width, height)
    factor = min(_SIDE, _LARGER * side) / side
    return max(1, round(width * factor)), max(1, round(height * factor))


def find_points(gray: Image.Image) -> Points:
    """The points of a gray image of any size."""
    image = np.asarray(small(gray), np.float32) / 255
    octaves = _octaves(image) if max(gray.size) >= _SMALLEST else []
    hashes, places, scores = [], [], []
    for number, octave in enumerate(octaves):
        found, contrasts = _blobs(octave)
        kept = _inside(found, octave.shape[1:])
        found, contrasts = found[kept], contrasts[kept]
        strongest = np.argsort(-contrasts * np.sqrt(found[:, 2]), kind="stable")[:MOST_POINTS]
        found, contrasts = found[strongest], contrasts[strongest]
        hashes.append(_signs(_patches(octave, found)))
        places.append(found * 2**number)
        scores.append(contrasts * np.sqrt(places[-1][:, 2]))
    if not hashes:
        return Points(np.zeros(0, np.uint64), np.zeros((0, 3), np.float16))
    best = np.argsort(-np.concatenate(scores), kind="stable")[:MOST_POINTS]
    return Points(np.concatenate(hashes)[best], np.concatenate(places)[best].astype(np.float16))


def _octaves(image: Float32[np.ndarray, "h w"]) -> list[Float32[np.ndarray, "levels hh ww"]]:
    """The image more and more blurred, at the full size, half of it, ..."""
    sigmas = _SCALE * 2 ** (np.arange(_LEVELS + 3) / _LEVELS)
    steps = np.sqrt(np.diff(sigmas**2))
    octaves = []
    first = gaussian_filter(image, (_SCALE**2 - 0.5**2) ** 0.5, truncate=3)
    while min(first.shape) >= 12:
        levels = [first]
        for step in steps:
            levels.append(gaussian_filter(levels[-1], step, truncate=3))
        octaves.append(np.stack(levels))
        first = levels[_LEVELS][::2, ::2]
    return octaves


def _blobs(octave: Float32[np.ndarray, "levels h w"]) -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n"]]:
    """Place and scale of the extremes, between pixels and levels; and how distinct they are."""
    strength = np.abs(np.diff(octave, axis=0))
    extreme = (strength == maximum_filter(strength, 3)) & (strength > _CONTRAST)
    extreme[[0, -1]] = extreme[:, [0, -1]] = extreme[:, :, [0, -1]] = False
    level, y, x = np.nonzero(extreme)
    center = strength[level, y, x]

    def between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The vertex of the parabola through three neighbors."""
        curvature = np.minimum(before - 2 * center + after, -1e-9)
        return np.clip((before - after) / (2 * curvature), -0.5, 0.5)

    right = x + between(strength[level, y, x - 1], strength[level, y, x + 1])
    down = y + between(strength[level, y - 1, x], strength[level, y + 1, x])
    scale = _SCALE * 2 ** ((level + between(strength[level - 1, y, x], strength[level + 1, y, x])) / _LEVELS)
    return np.stack([right, down, scale], 1).astype(np.float32), center


def _inside(points: Float32[np.ndarray, "n 3"], shape: tuple[int, ...]) -> np.ndarray:
    """Whether nearly the whole patch around each point lies in the image."""
    reach = 0.8 * _REACH * points[:, 2:]
    inside = (points[:, :2] > reach) & (points[:, :2] < np.array(shape[::-1]) - reach)
    return inside[:, 0] & inside[:, 1]


def _patches(
    octave: Float32[np.ndarray, "levels h w"], points: Float32[np.ndarray, "n 3"]
) -> Float32[np.ndarray, "n p p"]:
    """What is around each point, in its scale."""
    levels, height, width = octave.shape
    offsets = (np.arange(_PATCH) - _PATCH / 2 + 0.5) / (_PATCH / 2) * _REACH
    level = np.clip(np.round(np.log2(points[:, 2] / _SCALE) * _LEVELS).astype(int), 0, levels - 1)[:, None, None]
    x = np.clip(points[:, :1] + offsets * points[:, 2:], 0, width - 1.001)
    y = np.clip(points[:, 1:2] + offsets * points[:, 2:], 0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    right, down = (x - left)[:, None, :], (y - top)[:, :, None]
    left, top = left[:, None, :], top[:, :, None]
    upper = octave[level, top, left] * (1 - right) + octave[level, top, left + 1] * right
    lower = octave[level, top + 1, left] * (1 - right) + octave[level, top + 1, left + 1] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)


def _signs(patches: Float32[np.ndarray, "n p p"]) -> UInt64[np.ndarray, "n"]:
    """The signs of the 64 lowest frequencies of each patch, but the mean."""
    frequencies = _WAVES @ patches @ _WAVES.T
    bits = np.stack([frequencies[:, v, u] > 0 for v, u in _LOWEST], 1)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def _lowest() -> list[tuple[int, int]]:
    """The lowest frequencies, dealt out so that any 16 consecutive bits have low and high ones."""
    by_height = sorted(((v, u) for v in range(_PATCH) for u in range(_PATCH) if v + u), key=lambda f: (sum(f), f))
    return [by_height[place] for first in range(4) for place in range(first, _BITS, 4)]


_LOWEST = _lowest()
_WAVES = np.cos(np.pi * (2 * np.arange(_PATCH) + 1) * np.arange(_PATCH)[:, None] / (2 * _PATCH)).astype(np.float32)
