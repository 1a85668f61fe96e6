"""Pixels that fire all the time, whatever the camera sees: how they are told from the scene, and taken out."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import rank_filter

from pauca.errors import InputError
from pauca.events.kernels.pixels import count_events
from pauca.events.recording import Recording, events_of, leave_out, recording_of
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


def hot_pixel_mask(events: Events | Recording) -> Bool[np.ndarray, "height width"]:
    """Which pixels fire far more than those around them, all the time: True where hot.

    A hot pixel has at least ten events, has one and a half times as many as the fourth busiest of its 24 neighbors
    and three standard deviations of Poisson counts more, and fires in at least half of sixteen equal parts of the time.
    An edge that passes spares itself: it makes its neighbors fire as well, and is gone after its part of the time.

    It cannot tell a pixel that the scene itself makes fire about as often (a rich texture at 1,000 deg/s), nor in a few
    packets: at 500 Hz ten events take 20 ms.
    """
    return find_hot_pixels([events_of(events)]).on_sensor


@dataclass(frozen=True, eq=False)
class HotPixels:
    """Which pixels of a recording are hot, on a grid: the sensor's, or where undistortion moved pixels out of it, one
    that is wider by a sensor to each side."""

    hot: Bool[np.ndarray, "rows columns"]
    counts: Int64[np.ndarray, "rows columns"]  # events of each pixel
    size: tuple[int, int]  # of the sensor
    undistorted: bool
    first_us: int = 0  # of all events
    last_us: int = 0

    def keep(self, events: Events) -> Bool[np.ndarray, "n"]:
        """Which events are not of hot pixels."""
        return ~self.hot.ravel()[_cells(events)]

    @property
    def on_sensor(self) -> Bool[np.ndarray, "height width"]:
        """The sensor's part of the grid."""
        width, height = self.size
        return self.hot[height : 2 * height, width : 2 * width] if self.undistorted else self.hot

    def __len__(self) -> int:
        return int(np.count_nonzero(self.hot))

    @property
    def dropped(self) -> int:
        """Events of hot pixels."""
        return int(self.counts[self.hot].sum())

    @property
    def kept(self) -> int:
        """Events of all others."""
        return int(self.counts.sum()) - self.dropped


def check_something_left(hot: HotPixels, name: str) -> None:
    """Refuse a recording of which nothing is left without its hot pixels.

    Raises:
        InputError: all its events are of hot pixels.
    """
    if len(hot) and hot.kept == 0:
        pixels = f"{len(hot)} hot pixel{'s' if len(hot) > 1 else ''}"
        raise InputError(
            f"{name}: all {hot.dropped:,} events are of {pixels}, which are left out (`pauca events check` shows where)"
        )


def find_hot_pixels(chunks: Iterable[Events]) -> HotPixels:
    """Find the hot pixels of a recording of any length; see `hot_pixel_mask`.

    Args:
        chunks: its events in order, something that can be gone through twice: a list, or an `EventStream`.
    """
    counts, first_us, last_us, some = None, None, 0, None
    for events in chunks:
        if counts is None:
            some, counts = events, np.zeros(math.prod(_shape(events)), np.int64)
        if len(events):
            first_us = int(events.t_us[0]) if first_us is None else first_us
            last_us = int(events.t_us[-1])
            _count(events, counts)
    if some is None or counts is None:
        raise InputError("a recording without any chunk of events has no pixels")
    counts = counts.reshape(_shape(some))
    hot = _stands_out(counts, some.undistorted)
    if hot.any():
        hot &= _active_share(chunks, hot.shape, first_us or 0, last_us) >= _ACTIVE_SHARE
    return HotPixels(hot, counts, some.size, some.undistorted, first_us or 0, last_us)


def _shape(events: Events) -> tuple[int, int]:
    """Rows and columns of the grid."""
    width, height = events.size
    return (3 * height, 3 * width) if events.undistorted else (height, width)


def _cells(events: Events) -> Int64[np.ndarray, "n"]:
    """Where events lie on the grid, counted along its rows."""
    width, height = events.size
    if not events.undistorted:
        return events.y.astype(np.int64) * width + events.x
    # Beyond a sensor's width to either side a lens model has run away, and the last pixel takes all.
    column = np.clip(np.rint(events.x), -width, 2 * width - 1).astype(np.int64) + width
    row = np.clip(np.rint(events.y), -height, 2 * height - 1).astype(np.int64) + height
    return row * 3 * width + column


def _count(events: Events, counts: Int64[np.ndarray, "pixels"]) -> None:
    """Add to the counts of the grid."""
    if events.undistorted:
        counts += np.bincount(_cells(events), minlength=len(counts))
    else:
        count_events(events.x, events.y, events.size[0], counts)


def _stands_out(counts: Int64[np.ndarray, "rows columns"], undistorted: bool) -> Bool[np.ndarray, "rows columns"]:
    neighbor = rank_filter(counts, -_BUSIER, size=5, mode="constant")  # of 25, the pixel itself among them
    factor = _FACTOR_UNDISTORTED if undistorted else _FACTOR
    more = counts - factor * neighbor > _SIGMAS * np.sqrt(counts + factor**2 * neighbor + 1)
    return (counts >= _MANY_EVENTS) & more


def _active_share(
    chunks: Iterable[Events], shape: tuple[int, int], first_us: int, last_us: int
) -> Float[np.ndarray, "rows columns"]:
    """In how much of the time each pixel fires at all: share of equal parts, 0 to 1."""
    ends = first_us + (last_us - first_us) * np.arange(_PARTS + 1) // _PARTS
    ends[-1] += 1
    active = np.zeros((_PARTS, shape[0] * shape[1]), bool)
    for events in chunks:
        cells, place = _cells(events), np.searchsorted(events.t_us, ends)
        for part in range(_PARTS):
            active[part, cells[place[part] : place[part + 1]]] = True
    return active.mean(axis=0).reshape(shape)


def remove_hot_pixels(recording: Recording | Events) -> Recording:
    """The recording without the events of hot pixels; its notes and its report say how many went. Of events alone, a
    recording of what is left."""
    recording = recording_of(recording)
    events = recording.events
    hot = find_hot_pixels([events])
    if not len(hot):
        return recording
    reason = f"events of {len(hot)} hot pixel{'s' if len(hot) > 1 else ''}"
    return leave_out(recording, ~hot.keep(events), reason)


def pixel_indices(events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Column and row; undistorted (fractional) pixels go to the nearest, those outside to the edge."""
    if not events.undistorted:
        return events.x, events.y
    column = np.clip(np.rint(events.x), 0, events.size[0] - 1).astype(np.int64)
    return column, np.clip(np.rint(events.y), 0, events.size[1] - 1).astype(np.int64)


def pixel_counts(events: Events) -> Int64[np.ndarray, "height width"]:
    """How many events each pixel has."""
    width, height = events.size
    column, row = pixel_indices(events)
    return np.bincount(row.astype(np.int64) * width + column, minlength=width * height).reshape(height, width)


def hot_pixels(events: Events) -> tuple[HotPixel, ...]:
    """The hot pixels, hottest first."""
    return rated(hot_pixel_mask(events), pixel_counts(events), events.duration_us)


def rated(
    hot: Bool[np.ndarray, "height width"], counts: Int64[np.ndarray, "height width"], duration_us: int
) -> tuple[HotPixel, ...]:
    """The pixels of a mask, hottest first."""
    rows, columns = np.nonzero(hot)
    order = np.argsort(-counts[rows, columns], kind="stable")
    seconds = max(duration_us / 1e6, 1e-6)
    return tuple(
        HotPixel(int(x), int(y), float(counts[y, x] / seconds))
        for x, y in zip(columns[order], rows[order], strict=True)
    )
