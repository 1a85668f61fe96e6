"""Voting: events into the images of their polarity, each shared by the pixels around it.

No `fastmath` in these files: it lets a compiler reorder sums as the processor's vectors suggest, and the velocity
would then depend on the processor. Every operation here is rounded as written, everywhere.
"""

import numpy as np
from numba import njit

from pauca.events.kernels.spline import BLOCK, ONE, place
from pauca.events.kernels.vectors import add_spline


@njit(cache=True, nogil=True)
def vote_bilinear(x, y, p, pad, images):
    """Add each event to the four pixels around it.

    Args:
        x, y: float32 [n], pixels of the frame.
        p: uint8 [n], which image.
        pad: pixels of margin that `images` has around the frame.
        images: float32 [m, height + 2 pad, width + 2 pad], added to.

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
        image[r, c] += (ONE - right) * (ONE - down)
        image[r, c + np.uint32(1)] += right * (ONE - down)
        image[r + np.uint32(1), c] += (ONE - right) * down
        image[r + np.uint32(1), c + np.uint32(1)] += right * down
    return lost, x_low, x_high, y_low, y_high


@njit(cache=True, nogil=True)
def vote_quadratic(x, y, p, pad, images):
    """Add each event to the nine pixels around it, by the quadratic B-spline.

    Its spread (a variance of a quarter of a pixel squared on each axis) is the same wherever in its pixel an event
    lies, so that whole pixels win nothing: bilinear voting has a spike of the likelihood at rest, where the events of a
    camera without distortion all fall on whole pixels. Arguments and result as of `vote_bilinear`.

    In blocks: places in vectors, then the additions, three rows of four pixels for each event (.12 against .17 ms for
    30,000 events where nine pixels are added to one by one). The image's margin must be one pixel at least.
    """
    height, width = images.shape[1] - 2 * pad, images.shape[2] - 2 * pad
    flat, stride = images.reshape(-1), np.uint32(images.shape[2])
    a, b = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    columns, rows, corners = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint32)
    inside = 0
    x_low, x_high, y_low, y_high = width, -1, height, -1
    for start in range(0, x.size, BLOCK):
        n = min(BLOCK, x.size - start)
        end = start + n
        place(x[start:end], y[start:end], p[start:end], pad, images.shape, a, b, columns, rows, corners)
        for j in range(n):
            corner = corners[j]
            if corner == 0:
                continue
            inside += 1
            x_low, x_high = min(x_low, columns[j]), max(x_high, columns[j])
            y_low, y_high = min(y_low, rows[j]), max(y_high, rows[j])
            add_spline(flat, corner, stride, a[j], b[j])
    return x.size - inside, x_low - 1, x_high + 1, y_low - 1, y_high + 1
