"""Sum the events' slopes over parts of a packet, in time and over the sensor, to ask whether the parts agree."""

import numpy as np
from numba import njit

from pauca.events.kernels.linear import factor, solve_lower, solve_upper
from pauca.events.kernels.sums import LANES
from pauca.events.kernels.vectors import add_products

_SUMS, _EACH = 9, 12  # sums of a part; places for them, in fours
_BLOCK = 512  # float32 inside a block of a span, float64 between: exact to 1e-6
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
    third = slopes[2] if k == 3 else np.zeros(n, np.float32)
    parts, lanes = len(spans), np.empty((_SUMS, LANES), np.float32)
    spans[:] = 0
    for part in range(parts):
        first, end = part * n // parts, (part + 1) * n // parts
        whole = first + (end - first) // LANES * LANES
        for start in range(first, whole, _BLOCK):
            stop = min(start + _BLOCK, whole)
            _sum_block(slopes[0, start:stop], slopes[1, start:stop], third[start:stop], lanes)
            for m in range(_SUMS):
                for lane in range(LANES):
                    spans[part, m] += lanes[m, lane]
        for i in range(whole, end):
            u, v, w = np.float64(slopes[0, i]), np.float64(slopes[1, i]), np.float64(third[i])
            for m, more in enumerate((u, v, w, u * u, v * u, v * v, w * u, w * v, w * w)):
                spans[part, m] += more
    held, by_event = np.zeros((4, _EACH * len(regions))), np.empty((3, _BLOCK), np.float32)
    places = np.empty(_BLOCK, np.uint32)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        if end - start < _BLOCK:
            by_event[:] = 0  # of events that are not
        for a in range(3):
            _times(third[start:end] if a == 2 else slopes[a, start:end], dt[start:end], by_event[a])
        _place_in_grid(x[start:end], y[start:end], grid, places)
        _add_regions(by_event[0], by_event[1], by_event[2], end - start, places, held)
    for part in range(len(regions)):
        line = held[0, part * _EACH : (part + 1) * _EACH].copy()
        for i in range(1, 4):
            line += held[i, part * _EACH : (part + 1) * _EACH]
        both = regions[part]
        both[0], both[1], both[2] = line[3], line[7], line[11]
        both[3], both[4], both[5] = line[0], line[4], line[5]
        both[6], both[7], both[8] = line[8], line[9], line[10]


@njit(cache=True, nogil=True, inline="always")
def _sum_block(u, v, w, lanes):
    """The nine sums, lane i mod LANES of event i: only inside of its caller it is compiled to vectors."""
    lanes[:] = 0
    s0, s1, s2, s00, s10 = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    s11, s20, s21, s22 = lanes[5], lanes[6], lanes[7], lanes[8]
    for start in range(0, u.size, LANES):
        for lane in range(LANES):
            a, b, c = u[start + lane], v[start + lane], w[start + lane]
            s0[lane] += a
            s1[lane] += b
            s2[lane] += c
            s00[lane] += a * a
            s10[lane] += b * a
            s11[lane] += b * b
            s20[lane] += c * a
            s21[lane] += c * b
            s22[lane] += c * c


@njit(cache=True, nogil=True)
def _times(u, dt, out):
    for i in range(u.size):
        out[i] = dt[i] * u[i]


@njit(cache=True, nogil=True)
def _place_in_grid(x, y, grid, places):
    """Write where the sums of each event's part of the sensor begin."""
    columns, left, across, rows, top, down = grid
    for i in range(x.size):
        column = min(max(np.int32((x[i] - left) * across), np.int32(0)), np.int32(columns - 1))
        row = min(max(np.int32((y[i] - top) * down), np.int32(0)), np.int32(rows - 1))
        places[i] = np.uint32((row * np.int32(columns) + column) * np.int32(_EACH))
    places[x.size :] = 0


@njit(cache=True, nogil=True)
def _add_regions(u, v, w, n, places, held):
    sums, turn = held.reshape(-1), np.uint32(held.shape[1])
    for i in range(0, n, 4):
        add_products(sums, places, turn, np.uint32(i), u, v, w)


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
