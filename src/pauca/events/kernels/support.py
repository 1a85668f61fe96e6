"""Which events have another one beside them in space and time: those of an edge do, those of noise seldom."""

import numpy as np
from numba import njit

_LONG_AGO = -(1 << 62)


@njit(cache=True, nogil=True)
def count_blocks(x, y, block, across, down, counts):
    """Add to counts [across * down] the events [n] of square blocks of pixels; the last ones take what is left over."""
    for i in range(len(x)):
        column = min(np.int64(x[i]) // block, across - 1)
        counts[min(np.int64(y[i]) // block, down - 1) * across + column] += 1


@njit(cache=True, nogil=True)
def count_supported(x, y, supported, chosen):
    """How many supported events lie on chosen pixels: x, y, supported [n], chosen bool [height, width]."""
    count = 0
    for i in range(len(x)):
        count += supported[i] != 0 and chosen[np.uint32(y[i]), np.uint32(x[i])]
    return count


@njit(cache=True, nogil=True)
def find_supported(t_us, x, y, asked, within_us, supported):
    """Mark events with another one in the eight pixels around theirs, before or after, within some time.

    Args:
        t_us: int64 [n], never decreasing.
        x, y: pixels [n], inside the sensor.
        asked: bool [height, width], of the sensor; events of other pixels are left out, and are not supported.
        within_us: microseconds.
        supported: uint8 [n], written.
    """
    height, width = asked.shape
    last_us = np.full((height + 2, width + 2), _LONG_AGO, np.int64)
    last = np.zeros((height + 2, width + 2), np.int64)
    for i in range(len(t_us)):
        supported[i] = 0
        if not asked[np.uint32(y[i]), np.uint32(x[i])]:
            continue
        row, column = np.int64(y[i]) + 1, np.int64(x[i]) + 1
        oldest = t_us[i] - within_us
        for down in range(-1, 2):
            for right in range(-1, 2):
                if (down != 0 or right != 0) and last_us[row + down, column + right] >= oldest:
                    supported[i] = 1
                    supported[last[row + down, column + right]] = 1
        last_us[row, column] = t_us[i]
        last[row, column] = i
