"""Hot pixels of a stream that has no end: found anew in each second, and left out from then on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pauca.events.hot_pixels import HotPixels, find_hot_pixels
from pauca.events.types import Events

_SECOND_US = 1_000_000


def without_hot_pixels(source: Iterable[Events], told: list[int]) -> Iterator[Events]:
    """The windows of a source without the events of hot pixels, which are told from the last whole second.

    Args:
        source: windows of events.
        told: receives the number of hot pixels of each second.
    """
    hot: HotPixels | None = None
    second: list[Events] = []
    for window in source:
        if len(window):
            second.append(window)
            if int(window.t_us[-1] - second[0].t_us[0]) >= _SECOND_US:
                hot = find_hot_pixels(second)
                told.append(len(hot))
                second = []
        yield window.where(hot.keep(window)) if hot is not None and len(hot) else window
