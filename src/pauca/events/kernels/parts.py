"""Sum the events' slopes over parts of a packet, to ask whether the parts tell the same motion."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def accumulate_parts(slopes, weight, part, gradient, fisher):
    """Write, for slopes u [k, n], weights w and parts c (uint8) of the events: gradient [c, k] = sum of w u, and
    fisher [c, k, k] = sum of w^2 u u, over the events of each part; in float64, in the order of the events."""
    k, n = slopes.shape
    gradient[:] = 0
    fisher[:] = 0
    for i in range(n):
        c = part[i]
        for a in range(k):
            u = np.float64(weight[i]) * slopes[a, i]
            gradient[c, a] += u
            for b in range(a + 1):
                fisher[c, a, b] += u * (np.float64(weight[i]) * slopes[b, i])
    for c in range(len(gradient)):
        for a in range(k):
            for b in range(a):
                fisher[c, b, a] = fisher[c, a, b]
