"""Pixels that fire all the time, whatever the camera sees: how they are told from the scene, and taken out."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import rank_filter

from pauca.events.recording import Finding, Recording, Remedy, in_words
from pauca.events.types import Events

_MANY_EVENTS = 10  # below so many events a pixel is not called hot
_BUSIER = 5  # compared is the pixel with this rank among its 25: up to four hot pixels may lie together
_FACTOR = 1.5
_FACTOR_UNDISTORTED = 3.0  # two pixels may be rounded into one where the lens pressed them together
_SIGMAS = 3.0
_PARTS, _ACTIVE_SHARE = 16, 0.5


@dataclass(frozen=True)
class HotPixel:
    """A pixel that fires far more than any other around it."""

    x: int
    y: int
    rate_hz: float


def hot_pixel_mask(events: Events) -> Bool[np.ndarray, "height width"]:
    """Which pixels fire far more than those around them, all the time: True where hot.

    A hot pixel has at least ten events, has one and a half times as many as the fourth busiest of its 24 neighbors
    and three standard deviations of Poisson counts more, and fires in at least half of sixteen equal parts of the time.
    An edge that passes spares itself: it makes its neighbors fire as well, and is gone after its part of the time.

    It cannot tell a pixel that the scene itself makes fire about as often (a rich texture at 1,000 deg/s), nor in a few
    packets: at 500 Hz ten events take 20 ms.
    """
    width, height = events.size
    grid = _Grid.of(events)
    return _hot(events, grid)[grid.top : grid.top + height, grid.left : grid.left + width]


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where events lie in an array of pixels: the sensor's, or a wider one where undistortion moved them out of it."""

    column: np.ndarray
    row: np.ndarray
    shape: tuple[int, int]
    left: int = 0  # column and row of the sensor's first pixel
    top: int = 0

    @classmethod
    def of(cls, events: Events) -> "_Grid":
        width, height = events.size
        if not events.undistorted or len(events) == 0:
            return cls(events.x.astype(np.int64), events.y.astype(np.int64), (height, width))
        # One sensor's width to either side: beyond, a lens model has run away, and the last pixel takes all.
        column = np.clip(np.rint(events.x), -width, 2 * width - 1).astype(np.int64)
        row = np.clip(np.rint(events.y), -height, 2 * height - 1).astype(np.int64)
        left, top = max(0, -int(column.min())), max(0, -int(row.min()))
        size = max(height, int(row.max()) + 1) + top, max(width, int(column.max()) + 1) + left
        return cls(column + left, row + top, size, left, top)


def _hot(events: Events, grid: _Grid) -> Bool[np.ndarray, "rows columns"]:
    flat = np.bincount(grid.row * grid.shape[1] + grid.column, minlength=grid.shape[0] * grid.shape[1])
    counts = flat.reshape(grid.shape)
    neighbor = rank_filter(counts, -_BUSIER, size=5, mode="constant")  # of 25, the pixel itself among them
    factor = _FACTOR_UNDISTORTED if events.undistorted else _FACTOR
    stands_out = counts - factor * neighbor > _SIGMAS * np.sqrt(counts + factor**2 * neighbor + 1)
    hot = (counts >= _MANY_EVENTS) & stands_out
    if hot.any():
        hot &= _active_share(events, grid) >= _ACTIVE_SHARE
    return hot


def _active_share(events: Events, grid: _Grid) -> Float[np.ndarray, "rows columns"]:
    """In how much of the time each pixel fires at all: share of equal parts, 0 to 1."""
    ends = events.t_us[0] + events.duration_us * np.arange(_PARTS + 1) // _PARTS
    ends[-1] += 1
    first = np.searchsorted(events.t_us, ends)
    active = np.zeros((_PARTS, *grid.shape), bool)
    for i in range(_PARTS):
        part = slice(first[i], first[i + 1])
        active[i, grid.row[part], grid.column[part]] = True
    return active.mean(axis=0)


def remove_hot_pixels(recording: Recording) -> Recording:
    """The recording without the events of hot pixels; its notes and its report say how many went."""
    events = recording.events
    grid = _Grid.of(events)
    hot = _hot(events, grid)
    if not hot.any():
        return recording
    kept = ~hot[grid.row, grid.column]
    cleaned = Events(events.t_us[kept], events.x[kept], events.y[kept], events.p[kept], events.size)
    found = np.count_nonzero(hot)
    reason = f"events of {found} hot pixel{'s' if found > 1 else ''}"
    finding = Finding(Remedy.DROPPED, reason, len(events) - len(cleaned), f"event {int(np.argmin(kept)) + 1}")
    report = recording.report
    if report:
        report = replace(report, kept=len(cleaned), findings=(*report.findings, finding))
    return replace(recording, events=cleaned, notes=(*recording.notes, *in_words([finding])), report=report)


def _pixel_indices(events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Column and row; undistorted (fractional) pixels go to the nearest, those outside to the edge."""
    if not events.undistorted:
        return events.x, events.y
    column = np.clip(np.rint(events.x), 0, events.size[0] - 1).astype(np.int64)
    return column, np.clip(np.rint(events.y), 0, events.size[1] - 1).astype(np.int64)


def pixel_counts(events: Events) -> Int64[np.ndarray, "height width"]:
    """How many events each pixel has."""
    width, height = events.size
    column, row = _pixel_indices(events)
    return np.bincount(row.astype(np.int64) * width + column, minlength=width * height).reshape(height, width)


def hot_pixels(events: Events) -> tuple[HotPixel, ...]:
    """The hot pixels, hottest first."""
    counts, duration_s = pixel_counts(events), events.duration_us / 1e6
    rows, columns = np.nonzero(hot_pixel_mask(events))
    order = np.argsort(-counts[rows, columns], kind="stable")
    seconds = max(duration_s, 1e-6)
    return tuple(
        HotPixel(int(x), int(y), float(counts[y, x] / seconds))
        for x, y in zip(columns[order], rows[order], strict=True)
    )
