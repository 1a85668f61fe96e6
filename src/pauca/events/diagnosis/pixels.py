"""Faults of pixels: hot and dead ones, regions without events, a wrong size of the sensor, polarity."""

import numpy as np
from jaxtyping import Bool, Int64
from scipy.ndimage import label, rank_filter

from pauca.events.diagnosis.fault import Fault
from pauca.events.hot_pixels import HotPixel
from pauca.events.io.sensor import KNOWN_SENSORS

_BLOCK = 16  # pixels to a side; a region without events holds at least one such block
_BUSY = 8.0  # events a pixel on average, for absent ones to tell anything
_NEIGHBORS = 20  # events of the fourth quietest of 24 neighbors beside which a pixel without any is dead
_QUIET = 3  # rank among them
_LOPSIDED = 0.1
_MATTERS = 0.01  # share of the events from which on hot pixels are a fault
_ENOUGH = 10_000  # events of a recording, for some to be too many
_MOST = 0.5  # share from which on they are, in a recording with fewer
_BOX = ("x0", "x1", "y0", "y1", "pixels")
_NAMED = 5  # pixels that are named in words


def hot(pixels: tuple[HotPixel, ...], counts: Int64[np.ndarray, "h w"]) -> list[Fault]:
    """Pixels that fire all the time, where they make more than a hundredth of the events."""
    share = sum(int(counts[p.y, p.x]) for p in pixels) / counts.sum()
    if share < (_MATTERS if counts.sum() >= _ENOUGH else _MOST):
        return []
    named = _named([f"({p.x}, {p.y}) {p.rate_hz:,.0f} Hz" for p in pixels])
    return [
        Fault(
            "hot pixels",
            f"{len(pixels)} fire all the time and make {100 * share:.1f} % of the events: {named}",
            "`pauca events align` leaves them out; in the camera, mask them, or raise its thresholds",
            {"count": len(pixels), "share": round(share, 6), "pixels": [vars(p) for p in pixels]},
        )
    ]


def dead(counts: Int64[np.ndarray, "h w"], empty: Bool[np.ndarray, "h w"]) -> list[Fault]:
    """Single pixels without events among busy ones."""
    neighbors = rank_filter(counts, _QUIET + 1, size=5, mode="mirror")  # of 25, the pixel itself the lowest
    where = (counts == 0) & (neighbors >= _NEIGHBORS) & ~empty
    rows, columns = np.nonzero(where)
    if not len(rows):
        return []
    named = _named([f"({x}, {y})" for x, y in zip(columns, rows, strict=True)])
    return [
        Fault(
            "dead pixels",
            f"{len(rows)} have no event where those around have {_NEIGHBORS} and more: {named}",
            "few do no harm; many are a sign of a damaged sensor, or of a mask in the camera's settings",
            {"count": len(rows), "pixels": [{"x": int(x), "y": int(y)} for x, y in zip(columns, rows, strict=True)]},
        )
    ]


def _named(pixels: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(pixels) - _NAMED} more" if len(pixels) > _NAMED else ""
    return ", ".join(pixels[:_NAMED]) + more


def without_events(counts: Int64[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of regions in which nothing happens at all; none in a recording with too few events to tell."""
    empty = np.zeros(counts.shape, bool)
    if counts.mean() < _BUSY:
        return empty
    # A block is searched at every place: its sum is zero where the running sums at its corners cancel.
    sums = np.pad(counts.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    n = _BLOCK
    blocks = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n] == 0
    for row, column in zip(*np.nonzero(blocks), strict=True):
        empty[row : row + n, column : column + n] = True
    return empty | _lines(counts, 0) | _lines(counts, 1)


def _lines(counts: Int64[np.ndarray, "h w"], axis: int) -> Bool[np.ndarray, "h w"]:
    """Whole rows or columns without events."""
    return np.broadcast_to(~counts.any(axis=axis, keepdims=True), counts.shape)


def regions(empty: Bool[np.ndarray, "h w"], counts: Int64[np.ndarray, "h w"]) -> list[Fault]:
    """Regions without events, unless they are a margin: then the sensor is smaller."""
    labels = np.zeros(empty.shape, np.int32)
    label(empty, output=labels)
    number = int(labels.max(initial=0))
    if number == 0 or _seen_size(counts) != counts.shape[::-1]:
        return []
    boxes = []
    for i in range(1, number + 1):
        rows, columns = np.nonzero(labels == i)
        boxes.append([int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max()), len(rows)])
    boxes.sort(key=lambda box: -box[4])
    named = ", ".join(f"x {a} to {b}, y {c} to {d}" for a, b, c, d, _ in boxes[:3])
    more = f" and {len(boxes) - 3} more" if len(boxes) > 3 else ""
    share = float(empty.mean())
    return [
        Fault(
            "empty regions",
            f"{100 * share:.1f} % of the sensor saw nothing at all: {named}{more}",
            "look for a region of interest or a mask in the camera's settings, and for something before the lens",
            {"share": round(share, 4), "regions": [dict(zip(_BOX, box, strict=True)) for box in boxes]},
        )
    ]


def sensor_size(counts: Int64[np.ndarray, "h w"], beyond: int) -> list[Fault]:
    """A size that is larger, or smaller, than that of the sensor that saw the events."""
    height, width = counts.shape
    seen = _seen_size(counts)
    if beyond:
        return [
            Fault(
                "wrong sensor size",
                f"{beyond:,} events lie beyond {width} x {height} pixels, and were left out",
                "give the sensor's size (--size), unless the file is damaged",
                {"size": [width, height], "beyond": beyond},
            )
        ]
    if counts.mean() < _BUSY or seen == (width, height) or seen[0] * seen[1] > 0.95 * width * height:
        return []
    known = next((size for size in KNOWN_SENSORS if size == seen), None)
    name = f", as a sensor of {seen[0]} x {seen[1]} has" if known else ""
    return [
        Fault(
            "wrong sensor size",
            f"all events lie within {seen[0]} x {seen[1]} of {width} x {height} pixels{name}",
            f"read it with --size {seen[0]} {seen[1]}, unless the camera watched a part of its sensor only",
            {"size": [width, height], "seen": list(seen)},
        )
    ]


def _seen_size(counts: Int64[np.ndarray, "h w"]) -> tuple[int, int]:
    """Columns and rows up to the last that saw something."""
    columns, rows = np.flatnonzero(counts.any(axis=0)), np.flatnonzero(counts.any(axis=1))
    return (int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else (0, 0)


def polarity(on: int, count: int) -> list[Fault]:
    """Far more events of one polarity than of the other."""
    share = on / count
    if _LOPSIDED <= share <= 1 - _LOPSIDED or count < 1000:
        return []
    alone = share in (0.0, 1.0)
    word = "ON" if share > 0.5 else "OFF"
    return [
        Fault(
            "polarity imbalance",
            f"all events are {word}" if alone else f"{100 * share:.1f} % of the events are ON",
            "the file lost its polarity: look at the columns (--columns) or convert it again"
            if alone
            else "bring the camera's thresholds for ON and OFF (its biases) closer together",
            {"on_share": round(share, 4)},
        )
    ]
