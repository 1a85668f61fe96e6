"""Sum the events' slopes over parts of a packet, in time and over the sensor, to ask whether the parts agree."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def accumulate_parts(slopes, x, y, dt, grid, spans, regions):
    """Write, for slopes u [k, n] of events, the sums over each part of u and of the products u u'.

    Args:
        slopes: float32 [k, n], k of 2 or 3.
        x, y, dt: float32 [n], bearings and seconds.
        grid: columns, left edge, columns per unit of x; rows, upper edge, rows per unit of y.
        spans: float64 [parts, 9], written: over parts in time with as many events each, the sums of u0, u1, u2 and of
            u0 u0, u1 u0, u1 u1, u2 u0, u2 u1, u2 u2.
        regions: float64 [rows * columns, 9], written: the same over parts of the sensor, for u dt in place of u.
    """
    k, n = slopes.shape
    columns, left, across, rows, top, down = grid
    spans[:] = 0
    regions[:] = 0
    parts = len(spans)
    for part in range(parts):
        line = spans[part]
        for i in range(part * n // parts, (part + 1) * n // parts):
            u0, u1 = np.float64(slopes[0, i]), np.float64(slopes[1, i])
            u2 = np.float64(slopes[2, i]) if k == 3 else 0.0
            _add(line, u0, u1, u2)
            column = min(max(int((x[i] - left) * across), 0), columns - 1)
            row = min(max(int((y[i] - top) * down), 0), rows - 1)
            s = np.float64(dt[i])
            _add(regions[row * columns + column], s * u0, s * u1, s * u2)


@njit(cache=True, nogil=True, inline="always")
def _add(line, u0, u1, u2):
    line[0] += u0
    line[1] += u1
    line[2] += u2
    line[3] += u0 * u0
    line[4] += u1 * u0
    line[5] += u1 * u1
    line[6] += u2 * u0
    line[7] += u2 * u1
    line[8] += u2 * u2
