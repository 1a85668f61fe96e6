"""Sum the events' slopes into the gradient by velocity and acceleration, and into the empirical Fisher matrix."""

import numpy as np
from numba import njit

_HALF = np.float32(1 / 2)
_BLOCK = 512  # float32 inside a block, float64 between: fast, and exact to 1e-6


@njit(cache=True, nogil=True, fastmath=True)
def accumulate_moments(slopes, dt, gradient, fisher):
    """Write, for slopes u [k, n] and times s: gradient [2, k] = sum of s u and s^2/2 u; fisher [3, k, k] = sum of
    s^2 u u, s^3/2 u u and s^4/4 u u."""
    k, n = slopes.shape
    gradient[:] = 0
    fisher[:] = 0
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        for a in range(k):
            g0, g1 = np.float32(0), np.float32(0)
            for i in range(start, end):
                su = dt[i] * slopes[a, i]
                g0 += su
                g1 += _HALF * dt[i] * su
            gradient[0, a] += g0
            gradient[1, a] += g1
            for b in range(a + 1):
                f0, f1, f2 = np.float32(0), np.float32(0), np.float32(0)
                for i in range(start, end):
                    s2 = dt[i] * dt[i]
                    uu = s2 * slopes[a, i] * slopes[b, i]
                    f0 += uu
                    f1 += _HALF * dt[i] * uu
                    f2 += _HALF * _HALF * s2 * uu
                fisher[0, a, b] += f0
                fisher[1, a, b] += f1
                fisher[2, a, b] += f2
    for m in range(3):
        for a in range(k):
            for b in range(a):
                fisher[m, b, a] = fisher[m, a, b]
