"""Sums whose order is written down, so that every processor rounds them alike, and vectors still do the work."""

from numba import njit

LANES = 16  # partial sums: as many as the widest vectors hold, and enough for narrower ones to overlap


@njit(cache=True, nogil=True, inline="always")
def sum_in_lanes(values, lanes):
    """Sum float32 values: value i goes to lane i mod LANES; the lanes are added in float64, in order."""
    lanes[:] = 0
    whole = values.size // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += values[start + lane]
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    for i in range(whole, values.size):
        total += values[i]
    return total
