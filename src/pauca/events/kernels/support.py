"""Which events have another one beside them in space and time: those of an edge do, those of noise seldom."""

import numpy as np
from numba import njit

_LONG_AGO = -(1 << 62)


@njit(cache=True, nogil=True)
def find_supported(t_us, x, y, width, height, within_us, supported):
    """Mark events with another one in the eight pixels around theirs, before or after, within some time.

    Args:
        t_us: int64 [n], never decreasing.
        x, y: pixels [n], inside the sensor.
        width, height: of the sensor.
        within_us: microseconds.
        supported: uint8 [n], written.
    """
    last_us = np.full((height + 2, width + 2), _LONG_AGO, np.int64)
    last = np.zeros((height + 2, width + 2), np.int64)
    for i in range(len(t_us)):
        supported[i] = 0
        row, column = np.int64(y[i]) + 1, np.int64(x[i]) + 1
        oldest = t_us[i] - within_us
        for down in range(-1, 2):
            for right in range(-1, 2):
                if (down != 0 or right != 0) and last_us[row + down, column + right] >= oldest:
                    supported[i] = 1
                    supported[last[row + down, column + right]] = 1
        last_us[row, column] = t_us[i]
        last[row, column] = i
