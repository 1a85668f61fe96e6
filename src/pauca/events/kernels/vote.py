"""Bilinear voting: events into the images of their polarity."""

import numpy as np
from numba import njit

_ONE = np.float32(1)


@njit(cache=True, nogil=True, fastmath=True)
def vote_bilinear(x, y, p, pad, images):
    """Add each event to the four pixels around it.

    Args:
        x, y: float32 [n], pixels of the frame.
        p: uint8 [n], which image.
        pad: pixels of margin that `images` has around the frame.
        images: float32 [2, height + 2 pad, width + 2 pad], added to.

    Returns:
        Events outside the frame (not voted), and the first and last column and row of the frame that were touched.
    """
    height, width = images.shape[1] - 2 * pad, images.shape[2] - 2 * pad
    x_end, y_end = np.float32(width - 1), np.float32(height - 1)
    lost = 0
    x_low, x_high, y_low, y_high = width, -1, height, -1
    for i in range(x.size):
        u, v = x[i], y[i]
        if not (u >= 0 and v >= 0 and u < x_end and v < y_end):
            lost += 1
            continue
        column, row = int(u), int(v)
        x_low, x_high = min(x_low, column), max(x_high, column + 1)
        y_low, y_high = min(y_low, row), max(y_high, row + 1)
        right, down = u - np.float32(column), v - np.float32(row)
        image = images[p[i]]
        c, r = np.uint32(column + pad), np.uint32(row + pad)
        image[r, c] += (_ONE - right) * (_ONE - down)
        image[r, c + np.uint32(1)] += right * (_ONE - down)
        image[r + np.uint32(1), c] += (_ONE - right) * down
        image[r + np.uint32(1), c + np.uint32(1)] += right * down
    return lost, x_low, x_high, y_low, y_high
