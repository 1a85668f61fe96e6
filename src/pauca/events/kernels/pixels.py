"""Which columns and rows of a sensor have events, in one pass."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def count_events(x, y, width, counts):
    """Add to counts [height * width] the events of each pixel: x, y [n], integers inside the sensor."""
    for i in range(x.size):
        counts[np.uint32(y[i]) * np.uint32(width) + np.uint32(x[i])] += 1


@njit(cache=True, nogil=True)
def count_pixels(x, y, wide, high, across, down, fitting):
    """Count events by column, by row, and by the known sensors that hold both.

    Args:
        x, y: pixels (integers), each an index of the tables below.
        wide, high: for each column and row, which sensors reach so far: a bit for each.
        across, down: counts of columns and rows, added to.
        fitting: counts of sets of sensors, added to.
    """
    for i in range(x.size):
        column, row = x[i], y[i]
        across[column] += 1
        down[row] += 1
        fitting[wide[column] & high[row]] += 1
