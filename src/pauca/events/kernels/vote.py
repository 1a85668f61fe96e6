"""Voting: events into the images of their polarity, each shared by the pixels around it.

No `fastmath` in these files: it lets a compiler reorder sums as the processor's vectors suggest, and the velocity
would then depend on the processor. Every operation here is rounded as written, everywhere.
"""

import numpy as np
from numba import njit

_ONE = np.float32(1)
_HALF = np.float32(1 / 2)
_THREE_QUARTERS = np.float32(3 / 4)


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
        image[r, c] += (_ONE - right) * (_ONE - down)
        image[r, c + np.uint32(1)] += right * (_ONE - down)
        image[r + np.uint32(1), c] += (_ONE - right) * down
        image[r + np.uint32(1), c + np.uint32(1)] += right * down
    return lost, x_low, x_high, y_low, y_high


@njit(cache=True, nogil=True)
def vote_quadratic(x, y, p, pad, images):
    """Add each event to the nine pixels around it, by the quadratic B-spline.

    Its spread (a variance of a quarter of a pixel squared on each axis) is the same wherever in its pixel an event
    lies, so that whole pixels win nothing: bilinear voting has a spike of the likelihood at rest, where the events of a
    camera without distortion all fall on whole pixels. Arguments and result as of `vote_bilinear`.
    """
    height, width = images.shape[1] - 2 * pad, images.shape[2] - 2 * pad
    x_end, y_end = np.float32(width - 1.5), np.float32(height - 1.5)
    lost = 0
    x_low, x_high, y_low, y_high = width, -1, height, -1
    for i in range(x.size):
        u, v = x[i], y[i]
        if not (u >= _HALF and v >= _HALF and u < x_end and v < y_end):
            lost += 1
            continue
        column, row = int(u + _HALF), int(v + _HALF)
        x_low, x_high = min(x_low, column - 1), max(x_high, column + 1)
        y_low, y_high = min(y_low, row - 1), max(y_high, row + 1)
        a, b = u - np.float32(column), v - np.float32(row)
        left, right = _HALF * (_HALF - a) * (_HALF - a), _HALF * (_HALF + a) * (_HALF + a)
        above, below = _HALF * (_HALF - b) * (_HALF - b), _HALF * (_HALF + b) * (_HALF + b)
        middle, level = _THREE_QUARTERS - a * a, _THREE_QUARTERS - b * b
        image = images[p[i]]
        c, r = np.uint32(column - 1 + pad), np.uint32(row - 1 + pad)
        _share(image[r], c, left * above, middle * above, right * above)
        _share(image[r + np.uint32(1)], c, left * level, middle * level, right * level)
        _share(image[r + np.uint32(2)], c, left * below, middle * below, right * below)
    return lost, x_low, x_high, y_low, y_high


@njit(cache=True, nogil=True, inline="always")
def _share(line, c, left, middle, right):
    line[c] += left
    line[c + np.uint32(1)] += middle
    line[c + np.uint32(2)] += right
