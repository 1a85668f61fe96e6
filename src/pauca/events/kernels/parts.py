"""Sum the events' slopes over parts of a packet, in time and over the sensor, to ask whether the parts agree."""

import numpy as np
from numba import njit

from pauca.events.kernels.linear import factor, solve_lower, solve_upper

_LEAST_PIVOT = 1e-6  # of a matrix in units of its diagonal, for a part to be asked


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
    third = slopes[k - 1]
    present = 1.0 if k == 3 else 0.0
    parts = len(spans)
    for part in range(parts):
        first, end = part * n // parts, (part + 1) * n // parts
        s0, s1, s2, s00, s10, s11, s20, s21, s22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(first, end):
            u0, u1, u2 = np.float64(slopes[0, i]), np.float64(slopes[1, i]), present * np.float64(third[i])
            s0, s1, s2 = s0 + u0, s1 + u1, s2 + u2
            s00, s10, s11 = s00 + u0 * u0, s10 + u1 * u0, s11 + u1 * u1
            s20, s21, s22 = s20 + u2 * u0, s21 + u2 * u1, s22 + u2 * u2
        line = spans[part]
        line[0], line[1], line[2], line[3], line[4] = s0, s1, s2, s00, s10
        line[5], line[6], line[7], line[8] = s11, s20, s21, s22
    for i in range(n):
        column = min(max(int((x[i] - left) * across), 0), columns - 1)
        row = min(max(int((y[i] - top) * down), 0), rows - 1)
        s = np.float64(dt[i])
        line = regions[np.uint32(row * columns + column)]
        u0, u1, u2 = s * slopes[0, i], s * slopes[1, i], s * present * third[i]
        line[0] += u0
        line[1] += u1
        line[2] += u2
        line[3] += u0 * u0
        line[4] += u1 * u0
        line[5] += u1 * u1
        line[6] += u2 * u0
        line[7] += u2 * u1
        line[8] += u2 * u2


@njit(cache=True, nogil=True)
def compare_parts(sums, lever):
    """How far parts lie from where all of them together are.

    Args:
        sums: float64 [parts, 9], of `accumulate_parts`.
        lever: float64 [k], pixels that one unit of each component of a step moves.

    Returns:
        Over the parts whose matrix of products F is regular, with g the sum of the slopes: the sum of g' F^-1 g, the
        mean of the squared length of F^-1 g in pixels, and how many such parts there are.
    """
    k = len(lever)
    matrix, root, white, step = np.empty((k, k)), np.empty((k, k)), np.empty(k), np.empty(k)
    total, square, regular = 0.0, 0.0, 0
    for part in range(len(sums)):
        at = 3
        for a in range(k):
            for b in range(a + 1):
                matrix[a, b] = matrix[b, a] = sums[part, at]
                at += 1
        if not factor(matrix, root, _LEAST_PIVOT):
            continue
        regular += 1
        solve_lower(root, sums[part, :k], white)
        solve_upper(root, white, step)
        for a in range(k):
            total += white[a] * white[a]
            square += (step[a] * lever[a]) ** 2
    return total, square / max(1, regular), regular
