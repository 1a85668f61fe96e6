"""The slope of the score at each event, by the adjoint of voting."""

import numpy as np
from numba import njit

from pauca.events.kernels.spline import BLOCK, HALF, ONE, THREE_QUARTERS, TWO, ZERO, place
from pauca.events.kernels.vectors import turn_four


@njit(cache=True, nogil=True)
def gather_bilinear(x, y, p, pad, slopes, slope_x, slope_y):
    """Derivative of the bilinear interpolation of `slopes` by x and by y; zero for events outside the frame.

    Args:
        x, y: float32 [n], pixels of the frame.
        p: uint8 [n], which image.
        pad: margin of `slopes` around the frame.
        slopes: float32 [m, height + 2 pad, width + 2 pad].
        slope_x, slope_y: float32 [n], written.
    """
    x_end = np.float32(slopes.shape[2] - 2 * pad - 1)
    y_end = np.float32(slopes.shape[1] - 2 * pad - 1)
    for i in range(x.size):
        u, v = x[i], y[i]
        if not (u >= 0 and v >= 0 and u < x_end and v < y_end):
            slope_x[i] = 0
            slope_y[i] = 0
            continue
        column, row = int(u), int(v)
        right, down = u - np.float32(column), v - np.float32(row)
        image = slopes[p[i]]
        c, r = np.uint32(column + pad), np.uint32(row + pad)
        s00, s01 = image[r, c], image[r, c + np.uint32(1)]
        s10, s11 = image[r + np.uint32(1), c], image[r + np.uint32(1), c + np.uint32(1)]
        slope_x[i] = (ONE - down) * (s01 - s00) + down * (s11 - s10)
        slope_y[i] = (ONE - right) * (s10 - s00) + right * (s11 - s01)


@njit(cache=True, nogil=True)
def gather_quadratic(x, y, p, pad, slopes, slope_x, slope_y):
    """Derivative of the quadratic B-spline with coefficients `slopes`; arguments as of `gather_bilinear`.

    In blocks: fetch the nine pixels around each event, four events at a time, then the arithmetic for all of them in
    vectors.
    """
    flat, stride = slopes.reshape(-1), np.uint32(slopes.shape[2])
    a, b, near = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty((9, BLOCK), np.float32)
    columns, rows, corners = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.zeros(BLOCK, np.uint32)
    by_event, block = near.reshape(-1), np.uint32(BLOCK)
    for start in range(0, x.size, BLOCK):
        n = min(BLOCK, x.size - start)
        end = start + n
        place(x[start:end], y[start:end], p[start:end], pad, slopes.shape, a, b, columns, rows, corners)
        for j in range(0, n, 4):
            c0, c1, c2, c3 = corners[j], corners[j + 1], corners[j + 2], corners[j + 3]
            at = np.uint32(j)
            for _ in range(3):
                turn_four(flat, c0, c1, c2, c3, by_event, at, block)
                at += np.uint32(3) * block
                c0, c1, c2, c3 = c0 + stride, c1 + stride, c2 + stride, c3 + stride
        _spline_slopes(near, a, b, corners, slope_x[start:end], slope_y[start:end])


@njit(cache=True, nogil=True, inline="always")
def _spline_slopes(near, a, b, corners, slope_x, slope_y):
    """Slopes at (a, b) from the middle one of nine coefficients, row by row; zero where the corner is 0."""
    p0, q0, s0, p1, q1, s1, p2, q2, s2 = near[0], near[1], near[2], near[3], near[4], near[5], near[6], near[7], near[8]
    for j in range(slope_x.size):
        u, v = a[j], b[j]
        left, middle = HALF * (HALF - u) * (HALF - u), THREE_QUARTERS - u * u
        right = HALF * (HALF + u) * (HALF + u)
        above, below = HALF * (HALF - v) * (HALF - v), HALF * (HALF + v) * (HALF + v)
        across0 = (u - HALF) * p0[j] - TWO * u * q0[j] + (u + HALF) * s0[j]
        across1 = (u - HALF) * p1[j] - TWO * u * q1[j] + (u + HALF) * s1[j]
        across2 = (u - HALF) * p2[j] - TWO * u * q2[j] + (u + HALF) * s2[j]
        along_x = above * across0 + (THREE_QUARTERS - v * v) * across1 + below * across2
        line0 = left * p0[j] + middle * q0[j] + right * s0[j]
        line1 = left * p1[j] + middle * q1[j] + right * s1[j]
        line2 = left * p2[j] + middle * q2[j] + right * s2[j]
        along_y = (v - HALF) * line0 - TWO * v * line1 + (v + HALF) * line2
        slope_x[j] = along_x if corners[j] != 0 else ZERO
        slope_y[j] = along_y if corners[j] != 0 else ZERO
