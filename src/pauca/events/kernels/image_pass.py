"""From the image of warped events to its score and the score's derivative by each event's position, in one sweep.

Blur, look up score and slope of the pixels near votes, blur the slope again (the blur is its own adjoint). The sweep
holds five rows of each step, and writes the slopes over the votes: what two polarities need then fits into a core's own
cache.
"""

import numpy as np
from numba import njit

from pauca.events.kernels.sums import LANES
from pauca.events.kernels.vectors import any_in_lanes, look_up_lanes

_ROWS = 5  # of a blur


@njit(cache=True, nogil=True)
def score_image(image, pad, box, taps, table, offset, first_exponent):
    """Sum the score of the blurred image over the frame, and put the blurred slope of the score in its place.

    Args:
        image: float32 [height + 2 pad, width + 2 pad], votes; on return the slopes, wherever they can differ from zero:
            in the box and twice the blur's radius beyond.
        pad: margin around the frame, at least twice the blur's radius.
        box: first and last column and row of the frame that hold votes.
        taps: w0, w1, w2 of the five-tap blur, float32; where w2 is zero, the blur has three taps and less work.
        table: float32 [segments, 4], see `likelihood.ScoreTable`: score, its step, slope, its step.
        offset: added to the blurred count before the look-up, a power of two.
        first_exponent: bits of `offset` as a float32, shifted down to the table's resolution.

    Returns:
        The sum of scores, relative to an empty image.
    """
    height, width = image.shape[0] - 2 * pad, image.shape[1] - 2 * pad
    x_low, x_high, y_low, y_high = box
    radius = 1 if taps[2] == 0 else 2
    # Columns and rows, in the padded image, where the blurred count can differ from zero.
    left, right = pad + max(x_low - radius, 0), pad + min(x_high + radius, width - 1) + 1
    top, bottom = pad + max(y_low - radius, 0), pad + min(y_high + radius, height - 1) + 1
    n = right - left
    votes, slopes = (
        np.zeros((_ROWS, n), np.float32),
        np.zeros((_ROWS, n + 2 * radius), np.float32),
    )  # blurred along rows
    padded = n // LANES * LANES + LANES
    count, slope = np.zeros(padded, np.float32), np.zeros(padded + 4 * radius, np.float32)
    inner, flat, lanes = slope[2 * radius : 2 * radius + padded], table.reshape(-1), np.empty(LANES, np.float32)
    first = np.int32(first_exponent)
    total = 0.0
    for row in range(top - radius, bottom + 3 * radius):
        if row < bottom + radius:
            _blur_along(image[row, left - radius : right + radius], taps, votes[row % _ROWS])
        at = row - radius
        if top <= at < bottom:
            _blur_across(votes, at, taps, count[:n])
            total += _look_up(count, n, flat, offset, first, inner, lanes)
            _blur_along(slope[: n + 4 * radius], taps, slopes[at % _ROWS])
        else:
            slopes[at % _ROWS] = 0
        out = at - radius
        if out >= top - radius:
            _blur_across(slopes, out, taps, image[out, left - radius : right + radius])
    return total


# Slices that start at their first element keep the index from counting as possibly negative: only then does the
# compiler use vector instructions; and it does so in functions of their own only.


@njit(cache=True, nogil=True)
def _blur_along(line, taps, target):
    """target [n] from line [n + 2 radius]."""
    w0, w1, w2 = taps
    if w2 == 0:
        m, d = line[1:], line[2:]
        for c in range(target.size):
            target[c] = w0 * m[c] + w1 * (line[c] + d[c])
        return
    b, m, d, e = line[1:], line[2:], line[3:], line[4:]
    for c in range(target.size):
        target[c] = w0 * m[c] + w1 * (b[c] + d[c]) + w2 * (line[c] + e[c])


@njit(cache=True, nogil=True)
def _blur_across(rows, row, taps, target):
    """target [n] from the rows around one, of which each is held in its turn."""
    w0, w1, w2 = taps
    b, m, d = rows[(row - 1) % _ROWS], rows[row % _ROWS], rows[(row + 1) % _ROWS]
    if w2 == 0:
        for c in range(target.size):
            target[c] = w0 * m[c] + w1 * (b[c] + d[c])
        return
    a, e = rows[(row - 2) % _ROWS], rows[(row + 2) % _ROWS]
    for c in range(target.size):
        target[c] = w0 * m[c] + w1 * (b[c] + d[c]) + w2 * (a[c] + e[c])


@njit(cache=True, nogil=True)
def _look_up(count, n, table, offset, first_exponent, slope, lanes):
    """Write the slope of each of n counts, and return the sum of their scores.

    In blocks of `LANES`; one without votes has no score and no slope above an empty image's, and is passed over: 87 %
    of a window of 1 ms before shapes, 44 % of a packet before a texture. What follows the n counts is zero. The sum is
    that of `sums`: in lanes, and behind the last whole block one by one.
    """
    whole, block = np.uint32(n // LANES * LANES), np.uint32(LANES)
    lanes[:], slope[:] = 0, 0
    start = np.uint32(0)
    while start < whole:
        if any_in_lanes(count, start):
            look_up_lanes(count, start, table, offset, first_exponent, slope, lanes)
        start += block
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    if any_in_lanes(count, whole):
        lanes[:] = 0
        look_up_lanes(count, whole, table, offset, first_exponent, slope, lanes)
        for lane in range(n - LANES * (n // LANES)):
            total += lanes[lane]
    return total
