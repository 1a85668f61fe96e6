"""Sum the events' slopes into the gradient by velocity and acceleration, and into the empirical Fisher matrix."""

import numpy as np
from numba import njit

from pauca.events.kernels.sums import LANES

_HALF = np.float32(1 / 2)
_BLOCK = 512  # float32 inside a block, float64 between: fast, and exact to 1e-6


@njit(cache=True, nogil=True)
def accumulate_moments(slopes, dt, gradient, fisher):
    """Write, for slopes u [k, n] and times s: gradient [2, k] = sum of s u and s^2/2 u; fisher [3, k, k] = sum of
    s^2 u u, s^3/2 u u and s^4/4 u u."""
    k, n = slopes.shape
    gradient[:] = 0
    fisher[:] = 0
    whole = n // LANES * LANES
    lanes = np.empty((5, LANES), np.float32)
    for start in range(0, whole, _BLOCK):
        end = min(start + _BLOCK, whole)
        for a in range(k):
            for b in range(a + 1):
                _sum_block(slopes[a, start:end], slopes[b, start:end], dt[start:end], a == b, lanes)
                for lane in range(LANES):
                    if a == b:
                        gradient[0, a] += lanes[0, lane]
                        gradient[1, a] += lanes[1, lane]
                    for m in range(3):
                        fisher[m, a, b] += lanes[2 + m, lane]
    for i in range(whole, n):
        h = _HALF * dt[i]
        for a in range(k):
            u = dt[i] * slopes[a, i]
            gradient[0, a] += u
            gradient[1, a] += h * u
            for b in range(a + 1):
                uu = u * (dt[i] * slopes[b, i])
                fisher[0, a, b] += uu
                fisher[1, a, b] += h * uu
                fisher[2, a, b] += h * (h * uu)
    for m in range(3):
        for a in range(k):
            for b in range(a):
                fisher[m, b, a] = fisher[m, a, b]


@njit(cache=True, nogil=True, inline="always")
def _sum_block(u, v, dt, alike, lanes):
    """Partial sums of one block: lane i mod LANES takes event i, so that the order does not depend on the processor."""
    lanes[:] = 0
    g0, g1, f0, f1, f2 = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    for start in range(0, u.size, LANES):
        for lane in range(LANES):
            s = dt[start + lane]
            h = _HALF * s
            su = s * u[start + lane]
            uu = su * (s * v[start + lane])
            f0[lane] += uu
            f1[lane] += h * uu
            f2[lane] += h * (h * uu)
            if alike:
                g0[lane] += su
                g1[lane] += h * su
