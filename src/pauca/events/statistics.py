"""Counts over a recording of any length, chunk by chunk: pixels, rates, silences."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pauca.events.hot_pixels import pixel_indices
from pauca.events.types import Events

_SHARED = 0.9
_COARSE_US = 500.0  # a tick from which on a clock is called coarse


@dataclass(eq=False)
class Statistics:
    """What `info` and `check` need to know of the events; `add` takes them in, in order."""

    size: tuple[int, int]
    rate_bin_us: int
    least_gap_us: int  # silences that are at least so long are kept
    count: int = 0
    first_us: int = 0
    last_us: int = 0
    same_time: int = 0  # events at the very microsecond of the event before
    busiest: int = 0  # events in the busiest whole bin

    def __post_init__(self) -> None:
        width, height = self.size
        self.pixels: Int64[np.ndarray, "2 height width"] = np.zeros((2, height, width), np.int64)  # OFF and ON
        self.gaps: list[tuple[int, int]] = []  # time of the event before, and how long
        self._bin, self._in_bin = 0, 0

    def add(self, events: Events) -> None:
        """Count one more chunk."""
        if len(events) == 0:
            return
        if self.count == 0:
            self.first_us = self.last_us = int(events.t_us[0])
            self.same_time = -1  # the first event has none before it
        steps = np.diff(events.t_us, prepend=self.last_us)
        self.same_time += int(np.count_nonzero(steps == 0))
        for i in np.flatnonzero(steps >= self.least_gap_us):
            self.gaps.append((int(events.t_us[i] - steps[i]), int(steps[i])))
        self._count_bins(events.t_us)
        self._count_pixels(events)
        self.count, self.last_us = self.count + len(events), int(events.t_us[-1])

    @property
    def duration_us(self) -> int:
        return self.last_us - self.first_us

    @property
    def tick_us(self) -> float:
        """Mean time between different times, where most events share theirs with others: the clock's resolution."""
        different = self.count - self.same_time
        return self.duration_us / different if self.same_time > _SHARED * self.count else 0.0

    @property
    def coarse(self) -> str:
        """What is wrong with the clock's resolution, in words; empty where nothing is."""
        return f"times are coarse: about one every {self.tick_us / 1000:.1f} ms" if self.tick_us > _COARSE_US else ""

    @property
    def counts(self) -> Int64[np.ndarray, "height width"]:
        """Events of each pixel."""
        return self.pixels.sum(axis=0)

    @property
    def on(self) -> int:
        """How many are ON."""
        return int(self.pixels[1].sum())

    @property
    def peak_rate_hz(self) -> float:
        """Events a second in the busiest bin; a recording that is shorter than a bin counts as one."""
        # The last bin is not whole, unless it is the only one: it would only be lower.
        busiest = self.busiest if self.duration_us >= self.rate_bin_us else self.count
        return busiest / (min(self.rate_bin_us, max(self.duration_us, 1)) / 1e6)

    def _count_bins(self, t_us: np.ndarray) -> None:
        bins = (t_us - self.first_us) // self.rate_bin_us
        starts = np.concatenate([[0], np.flatnonzero(np.diff(bins)) + 1])
        counts = np.diff(np.concatenate([starts, [len(bins)]]))
        if int(bins[0]) == self._bin:
            counts[0] += self._in_bin
        else:
            self.busiest = max(self.busiest, self._in_bin)
        self.busiest = max(self.busiest, int(counts[:-1].max(initial=0)))
        self._bin, self._in_bin = int(bins[-1]), int(counts[-1])

    def _count_pixels(self, events: Events) -> None:
        width, height = self.size
        column, row = pixel_indices(events)
        cells = (events.p.astype(np.int64) * height + row) * width + column
        self.pixels += np.bincount(cells, minlength=self.pixels.size).reshape(self.pixels.shape)
