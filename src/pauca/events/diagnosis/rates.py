"""How many ON and OFF events came when: counts in short bins of equal length, over the whole recording."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from pauca.events.types import Events

SHORTEST_BIN_US = 500  # sees flicker of up to a kilohertz
_MOST_BINS = 1 << 23  # 64 MiB, 70 minutes; longer recordings are counted in longer bins


@dataclass(eq=False)
class Rates:
    """Counts that `add` fills, in order; bins become twice as long whenever there would be too many."""

    bin_us: int = SHORTEST_BIN_US
    first_us: int | None = None
    most_bins: int = _MOST_BINS

    def __post_init__(self) -> None:
        self._counts: Int32[np.ndarray, "2 capacity"] = np.zeros((2, 1024), np.int32)
        self._used = 0

    @property
    def counts(self) -> Int32[np.ndarray, "2 bins"]:
        """OFF and ON events of each bin; the last is seldom whole."""
        return self._counts[:, : self._used]

    @property
    def total(self) -> Int64[np.ndarray, "bins"]:
        """Events of each bin."""
        return self.counts.sum(axis=0, dtype=np.int64)

    def time_s(self, bin: int) -> float:
        """When a bin begins, on the recording's clock."""
        return ((self.first_us or 0) + bin * self.bin_us) / 1e6

    def add(self, events: Events) -> None:
        """Count one more chunk."""
        if len(events) == 0:
            return
        if self.first_us is None:
            self.first_us = int(events.t_us[0])
        while (int(events.t_us[-1]) - self.first_us) // self.bin_us >= self.most_bins:
            self._halve()
        bins = (events.t_us - self.first_us) // self.bin_us
        first, last = int(bins[0]), int(bins[-1])
        self._reserve(last + 1)
        # Twice the bin, and one more for ON: counts of both polarities in one go.
        counts = np.bincount((bins - first) * 2 + events.p, minlength=2 * (last - first + 1))
        self._counts[:, first : last + 1] += counts.reshape(-1, 2).T.astype(np.int32)
        self._used = max(self._used, last + 1)

    def _reserve(self, bins: int) -> None:
        if bins > self._counts.shape[1]:
            grown = np.zeros((2, min(max(bins, 2 * self._counts.shape[1]), self.most_bins)), np.int32)
            grown[:, : self._used] = self.counts
            self._counts = grown

    def _halve(self) -> None:
        even = self._used + self._used % 2
        self._reserve(even)
        halved = self._counts[:, :even].reshape(2, -1, 2).sum(axis=2)
        self._counts[:, : halved.shape[1]], self._counts[:, halved.shape[1] :] = halved, 0
        self._used, self.bin_us = halved.shape[1], 2 * self.bin_us
