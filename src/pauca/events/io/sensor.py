"""What only a whole recording tells: the size of its sensor, where the file does not say it, and what p = -1 means."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from pauca.events.io.source import Block
from pauca.events.kernels.pixels import count_pixels

# DVS128, DAVIS240, ATIS, GenX320, QVGA, DAVIS346, VGA (DVXplorer, Gen3, DSEC), HD (Gen4), by area.
KNOWN_SENSORS = ((128, 128), (240, 180), (304, 240), (320, 240), (346, 260), (320, 320), (640, 480), (1280, 720))

_LARGEST = 1 << 14  # pixels to a side; what lies beyond is damage in any case
_DAMAGED = 10_000  # one pixel in so many may be wrong


class Survey:
    """Counts over all blocks of a file, from which its conventions follow."""

    def __init__(self) -> None:
        self._across, self._down = np.zeros(_LARGEST + 1, np.int64), np.zeros(_LARGEST + 1, np.int64)
        self._fitting = np.zeros(1 << len(KNOWN_SENSORS), np.int64)
        self._minus = self._zero = 0
        self.fractions = False  # whether a pixel is no whole number

    def add(self, block: Block) -> "Survey":
        """Count one more block."""
        self.add_pixels(block.x, block.y)
        if block.p.dtype.kind in "if":
            self._minus += int(np.count_nonzero(block.p == -1))
            self._zero += int(np.count_nonzero(block.p == 0))
        return self

    def add_pixels(self, x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"]) -> "Survey":
        """Count one more block's pixels; those that are no finite numbers tell nothing."""
        if x.dtype.kind == "f" or y.dtype.kind == "f":
            finite = np.isfinite(x) & np.isfinite(y)
            if not finite.all():
                x, y = x[finite], y[finite]
            x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
            self.fractions |= not (np.array_equal(x, np.rint(x)) and np.array_equal(y, np.rint(y)))
        count_pixels(_within(x), _within(y), _WIDE, _HIGH, self._across, self._down, self._fitting)
        return self

    @property
    def signed(self) -> bool:
        """Whether OFF is -1: where that is more frequent than 0."""
        return self._minus > self._zero

    @property
    def size(self) -> tuple[int, int]:
        """The smallest known sensor that holds the pixels, but for one in ten thousand, which may be damaged."""
        n = int(self._across.sum())
        allowed = n // _DAMAGED
        kinds = np.arange(len(self._fitting))
        for number, size in enumerate(KNOWN_SENSORS):
            if self._fitting[kinds >> number & 1 == 0].sum() <= allowed:
                return size
        width, height = (
            int(np.searchsorted(np.cumsum(counts), n - allowed)) + 1 for counts in (self._across, self._down)
        )
        return width, height


def _within(pixels: np.ndarray) -> np.ndarray:
    """Pixels as indices; those that no sensor has at the ends."""
    if pixels.dtype == np.uint16 and pixels.max(initial=0) <= _LARGEST:
        return np.ascontiguousarray(pixels)
    return np.clip(pixels, 0, _LARGEST).astype(np.int64)


def _holding(axis: int) -> np.ndarray:
    """For each pixel along an axis, which known sensors reach so far: a bit for each."""
    pixel = np.arange(_LARGEST + 1)
    bits = [(pixel < size[axis]).astype(np.uint8) << number for number, size in enumerate(KNOWN_SENSORS)]
    return np.bitwise_or.reduce(bits)


_WIDE, _HIGH = _holding(0), _holding(1)


def survey(blocks: Iterable[Block], path: Path) -> Survey:
    """Look at all blocks of a file.

    Raises:
        InputError: where its columns are no numbers, or do not belong together.
    """
    found = Survey()
    for block in blocks:
        block.check(path)
        found.add(block)
    return found


def guess_size(x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"]) -> tuple[int, int]:
    """The smallest known sensor that holds the pixels, but for one in ten thousand, which may be damaged."""
    return Survey().add_pixels(x, y).size
