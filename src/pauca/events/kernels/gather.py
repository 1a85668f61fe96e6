"""The slope of the score at each event, by the adjoint of voting."""

import numpy as np
from numba import njit

_ONE = np.float32(1)
_TWO = np.float32(2)
_HALF = np.float32(1 / 2)
_THREE_QUARTERS = np.float32(3 / 4)
_BLOCK = 64


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
        slope_x[i] = (_ONE - down) * (s01 - s00) + down * (s11 - s10)
        slope_y[i] = (_ONE - right) * (s10 - s00) + right * (s11 - s01)


@njit(cache=True, nogil=True)
def gather_quadratic(x, y, p, pad, slopes, slope_x, slope_y):
    """Derivative of the quadratic B-spline with coefficients `slopes`; arguments as of `gather_bilinear`.

    In blocks: fetch the nine pixels around each event, then the arithmetic for all of them in vectors (.185 against
    .283 ms for 30,000 events).
    """
    x_end = np.float32(slopes.shape[2] - 2 * pad - 1.5)
    y_end = np.float32(slopes.shape[1] - 2 * pad - 1.5)
    near = np.empty((9, _BLOCK), np.float32)
    a, b = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(0, x.size, _BLOCK):
        end = min(start + _BLOCK, x.size)
        for j in range(end - start):
            u, v = x[start + j], y[start + j]
            if not (u >= _HALF and v >= _HALF and u < x_end and v < y_end):
                near[:, j] = 0
                a[j], b[j] = 0, 0
                continue
            column, row = int(u + _HALF), int(v + _HALF)
            a[j], b[j] = u - np.float32(column), v - np.float32(row)
            image = slopes[p[start + j]]
            c, r = np.uint32(column - 1 + pad), np.uint32(row - 1 + pad)
            for k in range(3):
                line = image[r + np.uint32(k)]
                near[3 * k, j] = line[c]
                near[3 * k + 1, j] = line[c + np.uint32(1)]
                near[3 * k + 2, j] = line[c + np.uint32(2)]
        _spline_slopes(near, a, b, slope_x[start:end], slope_y[start:end])


@njit(cache=True, nogil=True, inline="always")
def _spline_slopes(near, a, b, slope_x, slope_y):
    """Slopes at (a, b) from the middle one of nine coefficients, row by row."""
    p0, q0, s0, p1, q1, s1, p2, q2, s2 = near[0], near[1], near[2], near[3], near[4], near[5], near[6], near[7], near[8]
    for j in range(slope_x.size):
        u, v = a[j], b[j]
        left, middle = _HALF * (_HALF - u) * (_HALF - u), _THREE_QUARTERS - u * u
        right = _HALF * (_HALF + u) * (_HALF + u)
        above, below = _HALF * (_HALF - v) * (_HALF - v), _HALF * (_HALF + v) * (_HALF + v)
        across0 = (u - _HALF) * p0[j] - _TWO * u * q0[j] + (u + _HALF) * s0[j]
        across1 = (u - _HALF) * p1[j] - _TWO * u * q1[j] + (u + _HALF) * s1[j]
        across2 = (u - _HALF) * p2[j] - _TWO * u * q2[j] + (u + _HALF) * s2[j]
        slope_x[j] = above * across0 + (_THREE_QUARTERS - v * v) * across1 + below * across2
        line0 = left * p0[j] + middle * q0[j] + right * s0[j]
        line1 = left * p1[j] + middle * q1[j] + right * s1[j]
        line2 = left * p2[j] + middle * q2[j] + right * s2[j]
        slope_y[j] = (v - _HALF) * line0 - _TWO * v * line1 + (v + _HALF) * line2
