"""Images that are crops of one another, scaled or not: found by shared points, confirmed by their pixels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16
from PIL import Image

from pauca.fewshot.data.points import MOST_POINTS, Points, find_points, small

# Two points are taken for the same if at most so many of their 64 bits differ. Of Tiny-ImageNet's images and their
# crops of half the side or more, scaled up again, nine in ten share two such points or more; two different images share
# one in a hundred cases.
_BITS = 8
_PARTS = 16  # of the points, by four of their bits
_AT_ONCE = 100_000
_NEIGHBORS = 200  # that a point is compared with, among those that agree on 16 bits: in more the rest is not new
_SHARED = 2  # points at least
_LARGEST_SHARE = 0.93  # of one side at least; above it, two images are near duplicates or neither
# On 24 x 24 fields, the crop and what the whole image shows in its place correlate at least so much, and no field
# differs by more, in standard deviations: crops that are saved as JPEG of quality 60 have 0.98 and 0.45. Telephones of
# one make and characters that differ in a stroke have 0.95 and 1.2 or more.
_CORRELATION, _DIFFERENCE = 0.97, 1.3
_GRID = 24
_OUTSIDE = 0.04  # of a side that a window may reach beyond the whole image, because points are not exact


@dataclass(frozen=True)
class Window:
    """Where an image shows another one: its pixel p is at `scale` p + (`left`, `top`) of the whole image."""

    whole: int
    crop: int
    scale: float
    left: float
    top: float


class PointIndex:
    """The points of many images, in arrays that hold a hundred thousand images' in 34 MB.

    A point has a number: that of its image times `most`, and its place among the image's.
    """

    def __init__(self, images: int, most: int) -> None:
        self.most = most
        self.hashes = np.zeros((images, most), np.uint64)
        self.places = np.zeros((images, most, 3), np.float16)
        self.counts = np.zeros(images, np.uint8)

    def put(self, image: int, points: Points) -> None:
        """Keep the points of an image."""
        count = len(points.hashes)
        self.counts[image] = count
        self.hashes[image, :count], self.places[image, :count] = points.hashes, points.places

    def groups(self) -> Iterator[tuple[UInt16[np.ndarray, "n"], Int[np.ndarray, "n"]]]:
        """Every point once for each 16 of its 64 bits: these bits, ascending, and its number.

        In parts that hold all points of the bits that they hold: those of all together would take 200 MB.
        """
        filled = (np.arange(self.most) < self.counts[:, None]).ravel()
        for bits in self.hashes.view(np.uint16).reshape(-1, 4).T:
            for part in range(_PARTS):
                points = np.flatnonzero(filled & (bits >> 12 == part))
                own = bits[points]
                order = np.argsort(own, kind="stable")
                yield own[order], points[order]


def find_crops(images: Sequence[Image.Image]) -> set[tuple[int, int]]:
    """Pairs of places among gray images, of which the second image is a part of the first."""
    index = PointIndex(len(images), MOST_POINTS)
    for place, image in enumerate(images):
        index.put(place, find_points(image))
    candidates = windows(index, lambda place: small(images[place]).size)
    return confirmed(candidates, lambda place: small(images[place]))


def confirmed(candidates: Iterable[Window], picture: Callable[[int], Image.Image]) -> set[tuple[int, int]]:
    """The windows, as (whole, crop), in which the pixels are those of the crop; `picture` gives an image by place."""
    return {(w.whole, w.crop) for w in candidates if shows(picture(w.whole), picture(w.crop), w)}


def windows(index: PointIndex, sizes: Callable[[int], tuple[int, int]]) -> Iterator[Window]:
    """Pairs of images of which one may be a crop of the other.

    Args:
        index: the points of all images.
        sizes: width and height of an image, as `points.small` shows it.
    """
    first, second = _matches(index, _SHARED)
    places = index.places.reshape(-1, 3)
    pair = first // index.most * len(index.counts) + second // index.most
    order = np.argsort(pair, kind="stable")
    pair, first, second = pair[order], first[order], second[order]
    bounds = np.flatnonzero(np.diff(pair, prepend=-1, append=-1))
    for start, end in pairwise(bounds.tolist()):
        fitted = _fit(*(places[which[start:end]].astype(np.float64) for which in (first, second)))
        if fitted is None:
            continue
        one, other = int(first[start]) // index.most, int(second[start]) // index.most
        scale, left, top = fitted
        inverse = Window(other, one, 1 / scale, -left / scale, -top / scale)
        for window in (Window(one, other, scale, left, top), inverse):
            if _is_part(window, sizes(window.whole), sizes(window.crop)):
                yield window


def shows(whole: Image.Image, crop: Image.Image, window: Window) -> bool:
    """Whether the whole image shows the crop in the window, or close by; both gray, as `points.small` shows them."""
    pattern = _fields(crop, (0.0, 0.0, float(crop.width), float(crop.height)))
    width, height = window.scale * crop.width, window.scale * crop.height
    best = window
    seen = pattern
    for step in (0.03, 0.015, 0.0075, 0.004):  # points say where it is to a few pixels
        tried = [
            Window(0, 0, best.scale * (1 + k * step), best.left + i * step * width, best.top + j * step * height)
            for k in (-1, 0, 1)
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        ]
        views = [_fields(whole, _box(w, crop.size, whole.size)) for w in tried]
        place = int(np.argmax([float((view * pattern).sum()) for view in views]))
        best, seen = tried[place], views[place]
    correlation = float((seen * pattern).sum())
    rest = np.abs(seen - correlation * pattern).max() * _GRID
    return bool(correlation >= _CORRELATION and rest <= _DIFFERENCE)


def _matches(index: PointIndex, shared: int = 1) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Pairs of points of different images, the earlier one first, whose hashes are alike, in order.

    Alike hashes nearly always agree on one of four groups of 16 bits, so only members of equal groups are compared.
    Of images that have fewer than `shared` such points in common, none: by chance, millions have one.
    """
    hashes = index.hashes.ravel()
    found, matches = [], np.zeros(0, np.int64)  # both points as one number
    for part, (bits, points) in enumerate(index.groups()):
        sorted_hashes = hashes[points]
        for apart in range(1, min(_NEIGHBORS, len(points) - 1) + 1):
            together = np.flatnonzero(bits[apart:] == bits[:-apart])
            if not len(together):
                break
            differing = np.bitwise_count(sorted_hashes[together] ^ sorted_hashes[together + apart])
            near = together[differing <= _BITS]
            first, second = points[near], points[near + apart]
            elsewhere = first // index.most != second // index.most
            found.append(first[elsewhere] * len(hashes) + second[elsewhere])
        if part % _PARTS == _PARTS - 1:  # before the next 16 bits find most of them again
            found = [matches, *found]
            matches = np.concatenate(found)
            found.clear()
            matches.sort()
            matches = matches[np.diff(matches, prepend=-1) > 0]
    if shared > 1:
        pairs, images = np.empty_like(matches), index.counts.size
        for start in range(0, len(matches), _AT_ONCE):
            few = matches[start : start + _AT_ONCE]
            pairs[start : start + _AT_ONCE] = (
                few // len(hashes) // index.most * images + few % len(hashes) // index.most
            )
        matches = matches[_occur(shared, pairs)]
    return matches // len(hashes), matches % len(hashes)


def _occur(times: int, numbers: Int[np.ndarray, "m"]) -> Bool[np.ndarray, "m"]:
    """Which numbers occur so often, twice at least."""
    ordered = np.sort(numbers)
    often = np.unique(ordered[times - 1 :][ordered[times - 1 :] == ordered[: 1 - times]])
    del ordered
    found = np.zeros(len(numbers), bool)
    for start in range(0, len(numbers) if len(often) else 0, _AT_ONCE):
        few = numbers[start : start + _AT_ONCE]
        found[start : start + _AT_ONCE] = often[np.searchsorted(often, few).clip(max=len(often) - 1)] == few
    return found


def _fit(one: Float[np.ndarray, "m 3"], other: Float[np.ndarray, "m 3"]) -> tuple[float, float, float] | None:
    """The scale and shift (x and y) that lead from points of the other image to those of the one.

    As most of them agree, which must be two at least.
    """
    scales = one[:, 2] / other[:, 2]
    moved = scales[:, None, None] * (other[None, :, :2] - other[:, None, :2]) + one[:, None, :2]  # by, of, xy
    apart = scales[:, None] * np.linalg.norm(other[None, :, :2] - other[:, None, :2], axis=2)
    near = np.linalg.norm(moved - one[None, :, :2], axis=2) < 2 + 0.2 * apart
    alike = np.abs(np.log2(scales[:, None] / scales[None, :])) < 0.4
    agree = near & alike
    best = agree[int(agree.sum(1).argmax())]
    places = [np.unique(points[best, :2], axis=0) for points in (one, other)]
    if min(map(len, places)) < _SHARED:
        return None
    to, of = one[best, :2], other[best, :2]
    guess = float(np.median(scales[best]))
    spread = of - of.mean(0)
    trust = 25.0  # square pixels: points that lie close together say less of the scale than their own scales do
    scale = float((np.sum(spread * (to - to.mean(0))) + trust * guess) / (np.sum(spread**2) + trust))
    left, top = (to.mean(0) - scale * of.mean(0)).tolist()
    return (scale, left, top) if scale > 0 else None


def _is_part(window: Window, whole: tuple[int, int], crop: tuple[int, int]) -> bool:
    """Whether the window lies in the whole image, and is not nearly all of it."""
    start = np.array([window.left, window.top])
    share = window.scale * np.array(crop) / np.array(whole)
    start = start / np.array(whole)
    inside = (start > -_OUTSIDE).all() and (start + share < 1 + _OUTSIDE).all()
    return bool(inside and share.min() < _LARGEST_SHARE)


def _box(window: Window, crop: tuple[int, int], whole: tuple[int, int]) -> tuple[float, float, float, float]:
    """The window in pixels of the whole image, cut off at its edges."""
    (left, right), (top, bottom) = (
        _cut(start, start + window.scale * length, side)
        for start, length, side in zip((window.left, window.top), crop, whole, strict=True)
    )
    return left, top, right, bottom


def _cut(start: float, end: float, side: int) -> tuple[float, float]:
    first = min(max(0.0, start), side - 1.0)
    return first, max(min(float(side), end), first + 1)


def _fields(image: Image.Image, box: tuple[float, float, float, float]) -> Float[np.ndarray, "g g"]:
    """What is in a box, in `_GRID` x `_GRID` fields, with mean zero and length one."""
    fields = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BILINEAR, box), np.float32)
    fields = fields - fields.mean()
    return fields / (np.linalg.norm(fields) + 1e-6)
