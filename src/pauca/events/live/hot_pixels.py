"""Hot pixels of a stream that has no end: found anew in each second, and left out from then on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pauca.events.hot_pixels import hot_pixel_mask
from pauca.events.types import Events
from pauca.events.windows import joined

_SECOND_US = 1_000_000


def without_hot_pixels(source: Iterable[Events], told: list[int]) -> Iterator[Events]:
    """The windows of a source without the events of hot pixels, which are told from the last whole second.

    Args:
        source: windows of pixels as the sensor has them (uint16).
        told: receives the number of hot pixels of each second.
    """
    mask: np.ndarray | None = None
    second: list[Events] = []
    for window in source:
        if len(window):
            second.append(window)
            if int(window.t_us[-1] - second[0].t_us[0]) >= _SECOND_US:
                mask = hot_pixel_mask(joined(second))
                told.append(int(mask.sum()))
                second = []
        if mask is None or not mask.any() or len(window) == 0:
            yield window
            continue
        kept = ~mask[window.y, window.x]
        yield Events(window.t_us[kept], window.x[kept], window.y[kept], window.p[kept], window.size)
