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
    lanes = np.empty((8, LANES), np.float32)
    for start in range(0, whole, _BLOCK):
        end = min(start + _BLOCK, whole)
        for a in range(k):
            b = (a + 1) % k  # every pair of two or three components
            _sum_block(slopes[a, start:end], slopes[b, start:end], dt[start:end], lanes)
            for lane in range(LANES):
                for m in range(2):
                    gradient[m, a] += lanes[m, lane]
                for m in range(3):
                    fisher[m, a, a] += lanes[2 + m, lane]
                    fisher[m, a, b] += lanes[5 + m, lane]
    for i in range(whole, n):
        h = _HALF * dt[i]
        for a in range(k):
            b = (a + 1) % k
            u, v = dt[i] * slopes[a, i], dt[i] * slopes[b, i]
            gradient[0, a] += u
            gradient[1, a] += h * u
            for c, uv in ((a, u * u), (b, u * v)):
                fisher[0, a, c] += uv
                fisher[1, a, c] += h * uv
                fisher[2, a, c] += h * (h * uv)
    for m in range(3):
        for a in range(k):
            b = (a + 1) % k
            fisher[m, b, a] = fisher[m, a, b]


@njit(cache=True, nogil=True, inline="always")
def _sum_block(u, v, dt, lanes):
    """Partial sums of one block: lane i mod LANES takes event i, so that the order does not depend on the processor."""
    lanes[:] = 0
    g0, g1, f0, f1, f2, c0, c1, c2 = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5], lanes[6], lanes[7]
    for start in range(0, u.size, LANES):
        for lane in range(LANES):
            s = dt[start + lane]
            h = _HALF * s
            su, sv = s * u[start + lane], s * v[start + lane]
            uu, uv = su * su, su * sv
            g0[lane] += su
            g1[lane] += h * su
            f0[lane] += uu
            f1[lane] += h * uu
            f2[lane] += h * (h * uu)
            c0[lane] += uv
            c1[lane] += h * uv
            c2[lane] += h * (h * uv)
