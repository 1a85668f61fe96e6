"""Inertial samples of an AEDAT4 packet, which is a FlatBuffer: a vector of tables, each with its own layout."""

import numpy as np
from numba import njit

_FIELDS = (0, 2, 3, 4, 5, 6, 7)  # time; acceleration x, y, z; angular velocity x, y, z (1 is the temperature)


@njit(cache=True, nogil=True)
def read_samples(data, rows):
    """Read all samples.

    Args:
        data: the buffer (uint8), which begins with its size.
        rows: time (us), acceleration (g) and angular velocity (deg/s) of each sample; filled.

    Returns:
        How many there are; -1 where one lies beyond the buffer, or there are more than rows.
    """
    n = data.size
    if n < 12:
        return -1
    root = 4 + np.int64(data[4:8].view(np.uint32)[0])
    place = _field(data, root, 0)
    if place < 0:
        return -1
    if place == 0:
        return 0
    if place + 4 > n:
        return -1
    start = place + np.int64(data[place : place + 4].view(np.uint32)[0])
    if start + 4 > n:
        return -1
    count = np.int64(data[start : start + 4].view(np.uint32)[0])
    start += 4
    if start + 4 * count > n or count > len(rows):
        return -1
    for i in range(count):
        at = start + 4 * i
        sample = at + np.int64(data[at : at + 4].view(np.uint32)[0])
        for column in range(len(_FIELDS)):
            place = _field(data, sample, _FIELDS[column])
            size = 8 if column == 0 else 4
            if place < 0 or place + size > n:
                return -1
            if place == 0:
                rows[i, column] = 0
            elif column == 0:
                rows[i, column] = data[place : place + 8].view(np.int64)[0]
            else:
                rows[i, column] = data[place : place + 4].view(np.float32)[0]
    return count


@njit(cache=True, nogil=True)
def _field(data, table, number):
    """Where a field of a table is; 0 where it is absent, -1 where the table lies beyond the buffer."""
    if table + 4 > data.size:
        return -1
    layout = table - np.int64(data[table : table + 4].view(np.int32)[0])
    if layout < 0 or layout + 2 > data.size:
        return -1
    place = 4 + 2 * number
    if place >= np.int64(data[layout : layout + 2].view(np.uint16)[0]):
        return 0
    if layout + place + 2 > data.size:
        return -1
    offset = np.int64(data[layout + place : layout + place + 2].view(np.uint16)[0])
    return table + offset if offset else 0
