"""Where events lie among the pixels of the quadratic B-spline: what voting and its adjoint have in common."""

import numpy as np
from numba import njit

BLOCK = 64
"""Events that are placed together: enough for vectors, few enough for the nearest cache."""

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
HALF, THREE_QUARTERS = np.float32(1 / 2), np.float32(3 / 4)


@njit(cache=True, nogil=True, inline="always")
def place(x, y, p, pad, shape, a, b, columns, rows, corners):
    """Find the pixel nearest to each event of a block.

    Args:
        x, y: float32 [n], pixels of the frame, n <= BLOCK.
        p: uint8 [n], which image.
        pad: margin around the frame.
        shape: of the images, (m, height + 2 pad, width + 2 pad).
        a, b: float32 [BLOCK], written: the event's place from the middle of its pixel.
        columns, rows: int32 [BLOCK], written: the pixel, in the frame.
        corners: uint32 [BLOCK], written: index in all the images of the first of the nine pixels around it; 0, in the
            margin, for an event outside the frame.
    """
    _, height, stride = shape
    x_end, y_end = np.float32(stride - 2 * pad - 1.5), np.float32(height - 2 * pad - 1.5)
    for j in range(x.size):
        u, v = x[j], y[j]
        inside = (u >= HALF) & (v >= HALF) & (u < x_end) & (v < y_end)  # false for what is not a number
        u, v = (u, v) if inside else (HALF, HALF)
        column, row = np.int32(u + HALF), np.int32(v + HALF)
        a[j], b[j] = u - np.float32(column), v - np.float32(row)
        columns[j], rows[j] = column, row
        line = np.int32(p[j]) * np.int32(height) + row + np.int32(pad - 1)
        corners[j] = np.uint32(line * np.int32(stride) + column + np.int32(pad - 1)) if inside else np.uint32(0)
