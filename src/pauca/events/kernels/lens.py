"""Brown and Conrady's lens model on many points."""

from numba import njit


@njit(cache=True, nogil=True)
def distort_radtan(x, y, coefficients, u, v):
    """Write u, v, where a lens puts bearings (x, y, 1): float64 [n], contiguous; coefficients k1, k2, p1, p2, k3."""
    k1, k2, p1, p2, k3 = coefficients
    for i in range(x.size):
        a, b = x[i], y[i]
        r2 = a * a + b * b
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        u[i] = a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
        v[i] = b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b
