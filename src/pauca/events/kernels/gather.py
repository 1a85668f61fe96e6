"""The slope of the score at each event, by the adjoint of bilinear voting."""

import numpy as np
from numba import njit

_ONE = np.float32(1)


@njit(cache=True, nogil=True, fastmath=True)
def gather_gradient(x, y, p, pad, slopes, slope_x, slope_y):
    """Derivative of the bilinear interpolation of `slopes` by x and by y; zero for events outside the frame.

    Args:
        x, y: float32 [n], pixels of the frame.
        p: uint8 [n], which image.
        pad: margin of `slopes` around the frame.
        slopes: float32 [2, height + 2 pad, width + 2 pad].
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
