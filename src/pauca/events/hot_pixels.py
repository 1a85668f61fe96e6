"""Pixels that fire all the time, whatever the camera sees: how they are told from the scene, and taken out."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64
from scipy.ndimage import rank_filter

from pauca.events.recording import Finding, Recording, Remedy, in_words
from pauca.events.types import Events

_MANY_EVENTS = 10  # below so many events a pixel is not called hot


@dataclass(frozen=True)
class HotPixel:
    """A pixel that fires far more than any other around it."""

    x: int
    y: int
    rate_hz: float


def hot_pixel_mask(events: Events) -> Bool[np.ndarray, "height width"]:
    """Which pixels fire far more than the others: True where hot.

    A pixel is hot when its count stands out from those of all pixels (ten median absolute deviations above the
    median, in the square root, which makes counts equally noisy) and is four times that of the second busiest of its
    24 neighbours. The latter spares pixels on edges, whose neighbours fire as well; one neighbour may be hot too.
    """
    return _is_hot(pixel_counts(events))


def remove_hot_pixels(recording: Recording) -> Recording:
    """The recording without the events of hot pixels; its notes and its report say how many went."""
    events = recording.events
    hot = hot_pixel_mask(events)
    if not hot.any():
        return recording
    column, row = _pixel_indices(events)
    kept = ~hot[row, column]
    cleaned = Events(events.t_us[kept], events.x[kept], events.y[kept], events.p[kept], events.size)
    reason = f"events of {np.count_nonzero(hot)} hot pixels"
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


def _is_hot(counts: Int64[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    root = np.sqrt(counts)
    middle = np.median(root)
    # The floor: a Poisson count has a standard deviation of 1/2 in the square root, however many pixels are silent.
    spread = max(1.4826 * float(np.median(np.abs(root - middle))), 0.5)
    loud = (root > middle + 10 * spread) & (counts >= _MANY_EVENTS)
    third_busiest = rank_filter(counts, -3, size=5, mode="constant")  # of 25, the pixel itself among them
    return loud & (counts > 4 * np.maximum(third_busiest, 1))


def hot_pixels(counts: Int64[np.ndarray, "height width"], duration_s: float) -> tuple[HotPixel, ...]:
    """The hot pixels of such counts, hottest first."""
    rows, columns = np.nonzero(_is_hot(counts))
    order = np.argsort(-counts[rows, columns], kind="stable")
    seconds = max(duration_s, 1e-6)
    return tuple(
        HotPixel(int(x), int(y), float(counts[y, x] / seconds))
        for x, y in zip(columns[order], rows[order], strict=True)
    )
