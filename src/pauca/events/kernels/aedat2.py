"""Words of AEDAT 2.0 to events: an address and a time in microseconds, of four bytes each, the highest first."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def decode_words(words, davis, size, last, wraps, columns):
    """Decode pairs of an address and a time.

    Args:
        words: uint32, as they are in the file.
        davis: whether the addresses are those of a DAVIS; else a DVS128's.
        size: width and height; jAER counts columns from the right and rows from the bottom.
        last: the time of the event before these.
        wraps: how often the clock of 32 bits has begun anew before.
        columns: t (int64, microseconds), x, y (uint16; beyond the sensor where damaged), p (uint8); filled.

    Returns:
        How many events there are, the last one's time, how often the clock has begun anew by then, and the largest
        address.
    """
    t, x, y, p = columns
    count, largest = 0, np.uint32(0)
    for i in range(len(words) // 2):
        address, time = _swapped(words[2 * i]), np.int64(_swapped(words[2 * i + 1]))
        largest = max(largest, address)
        if davis and (address >> np.uint32(31) or address >> np.uint32(10) & np.uint32(1)):
            continue  # a sample of a frame or of the inertial sensor, or a trigger
        if time - last < -(1 << 31):
            wraps += 1
        last = time
        if davis:
            column, row, on = (
                address >> np.uint32(12) & 0x3FF,
                address >> np.uint32(22) & 0x1FF,
                address >> np.uint32(11) & 1,
            )
        else:
            column, row, on = address >> np.uint32(1) & 0x7F, address >> np.uint32(8) & 0x7F, 1 - (address & 1)
        t[count] = time + (wraps << 32)
        x[count], y[count], p[count] = size[0] - 1 - column, size[1] - 1 - row, on
        count += 1
    return count, last, wraps, largest


@njit(cache=True, nogil=True)
def _swapped(word):
    low = (word & np.uint32(0xFF)) << np.uint32(24) | (word & np.uint32(0xFF00)) << np.uint32(8)
    return low | (word >> np.uint32(8)) & np.uint32(0xFF00) | word >> np.uint32(24)
