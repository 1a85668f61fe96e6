"""From the image of warped events to its score and the score's derivative by each event's position, in one sweep.

Blur, look up score and slope of every pixel, blur the slope again (the blur is its own adjoint).
"""

import numpy as np
from numba import njit

from pauca.events.kernels.sums import LANES, sum_in_lanes

_FRACTION = np.float32(2.0**-16)


@njit(cache=True, nogil=True)
def score_image(image, pad, box, taps, table, offset, first_exponent, across, slopes):
    """Sum the score of the blurred image over the frame, and write the blurred slope of the score.

    Args:
        image: float32 [height + 2 pad, width + 2 pad], votes; set to zero on return.
        pad: margin around the frame, at least twice the blur's radius.
        box: first and last column and row of the frame that hold votes.
        taps: w0, w1, w2 of the five-tap blur, float32; where w2 is zero, the blur has three taps and less work.
        table: float32 [4, segments], see `likelihood.ScoreTable`: score, its step, slope, its step.
        offset: added to the blurred count before the look-up, a power of two.
        first_exponent: bits of `offset` as a float32, shifted down to the table's resolution.
        across: float32, as image; scratch, zero outside of what this call writes; zero again on return.
        slopes: float32, as image; written wherever it can differ from zero.

    Returns:
        The sum of scores, relative to an empty image.
    """
    height, width = image.shape[0] - 2 * pad, image.shape[1] - 2 * pad
    x_low, x_high, y_low, y_high = box
    # Columns and rows, in the padded image, where the blurred count and the blurred slope can differ from zero.
    left, right = pad + max(x_low - 2, 0), pad + min(x_high + 2, width - 1) + 1
    top, bottom = pad + max(y_low - 2, 0), pad + min(y_high + 2, height - 1) + 1
    for row in range(pad + y_low, pad + y_high + 1):
        _blur_along_row(image[row], left, right, taps, across[row])
        image[row, left:right] = 0
    count = np.empty(right - left, np.float32)
    slope = np.zeros(image.shape[1], np.float32)
    lanes = np.empty(LANES, np.float32)
    total = 0.0
    for row in range(top, bottom):
        _blur_across_rows(across, row, left, right, taps, count)
        total += _look_up(count, table, offset, first_exponent, slope[left:right], lanes)
        _blur_along_row(slope, left - 2, right + 2, taps, image[row])
    across[top:bottom, left:right] = 0
    for row in range(top - 2, bottom + 2):
        _blur_across_rows(image, row, left - 2, right + 2, taps, slopes[row, left - 2 : right + 2])
    image[top:bottom, left - 2 : right + 2] = 0
    return total


# Slices that start at their first element keep the index from counting as possibly negative: only then does the
# compiler use vector instructions.


@njit(cache=True, nogil=True, inline="always")
def _blur_along_row(line, left, right, taps, out):
    w0, w1, w2 = taps
    b, m, d = line[left - 1 :], line[left:], line[left + 1 :]
    target = out[left:right]
    if w2 == 0:
        for c in range(right - left):
            target[c] = w0 * m[c] + w1 * (b[c] + d[c])
        return
    a, e = line[left - 2 :], line[left + 2 :]
    for c in range(right - left):
        target[c] = w0 * m[c] + w1 * (b[c] + d[c]) + w2 * (a[c] + e[c])


@njit(cache=True, nogil=True, inline="always")
def _blur_across_rows(image, row, left, right, taps, target):
    w0, w1, w2 = taps
    b, m, d = image[row - 1, left:], image[row, left:], image[row + 1, left:]
    if w2 == 0:
        for c in range(right - left):
            target[c] = w0 * m[c] + w1 * (b[c] + d[c])
        return
    a, e = image[row - 2, left:], image[row + 2, left:]
    for c in range(right - left):
        target[c] = w0 * m[c] + w1 * (b[c] + d[c]) + w2 * (a[c] + e[c])


@njit(cache=True, nogil=True, inline="always")
def _look_up(count, table, offset, first_exponent, slope, lanes):
    value, value_step, slope_start, slope_step = table[0], table[1], table[2], table[3]
    for c in range(count.size):
        count[c] += offset
    bits = count.view(np.int32)
    for c in range(bits.size):
        segment = np.uint32((bits[c] >> 16) - first_exponent)
        fraction = np.float32(bits[c] & 0xFFFF) * _FRACTION
        slope[c] = slope_start[segment] + fraction * slope_step[segment]
        count[c] = value[segment] + fraction * value_step[segment]
    return sum_in_lanes(count, lanes)
