"""From velocities at knots to rotations on the edges of cells, and from slopes there back to the knots; float64.

Cells of one length, `step_s`; edge e lies at e step_s. The rotation at edge `reference` is the identity, and an event
at edge e is turned by R_e, the product of exp([w]x step) from the reference on, w the mean velocity over the cell.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def integrate(velocity, step_s, reference, rotations):
    """Write rotations [edges, 3, 3] of velocities [edges, 3], rad/s."""
    edges = velocity.shape[0]
    turn = np.empty((3, 3))
    rotations[reference] = np.eye(3)
    for e in range(reference, edges - 1):
        _exponential(velocity, e, 0.5 * step_s, turn)
        _multiply(rotations[e], turn, rotations[e + 1])
    for e in range(reference - 1, -1, -1):
        _exponential(velocity, e, -0.5 * step_s, turn)
        _multiply(rotations[e + 1], turn, rotations[e])


@njit(cache=True, nogil=True)
def project_knots(rotations, basis, step_s, reference, gradient_cells, fisher_cells, gradient, fisher):
    """Chain rule from turns at the edges to velocities at the knots.

    A change dw(s) of the velocity turns an event at edge e by the integral of R(s) dw(s) from the reference to e.

    Args:
        rotations: [edges, 3, 3], of `integrate`.
        basis: [edges, knots], share of each knot in the velocity at each edge.
        step_s: length of a cell in seconds.
        reference: edge at which the rotation is the identity.
        gradient_cells: [edges, 3], of `sum_cells`.
        fisher_cells: [cells, 6], of `sum_cells`.
        gradient: [3 knots], written: x, y, z of the first knot, then of the second.
        fisher: [3 knots, 3 knots], written.
    """
    edges, size = rotations.shape[0], 3 * basis.shape[1]
    turned, middle, weighted = np.zeros((3, size)), np.zeros((3, size)), np.empty((3, size))
    gradient[:] = 0
    fisher[:] = 0
    for direction in (1, -1):
        turned[:] = 0
        e = reference
        while 0 <= e + direction < edges:
            for a in range(3):
                for k in range(size):
                    knot, b = k // 3, k % 3
                    rate = rotations[e, a, b] * basis[e, knot]
                    rate += rotations[e + direction, a, b] * basis[e + direction, knot]
                    change = 0.5 * direction * step_s * rate
                    middle[a, k] = turned[a, k] + 0.5 * change
                    turned[a, k] += change
            _add_outer(fisher_cells[e if direction > 0 else e - 1], middle, weighted, fisher)
            e += direction
            for a in range(3):
                for k in range(size):
                    gradient[k] += gradient_cells[e, a] * turned[a, k]
    for k in range(size):
        for j in range(k):
            fisher[j, k] = fisher[k, j]


@njit(cache=True, nogil=True, inline="always")
def _add_outer(cell, middle, weighted, fisher):
    size = middle.shape[1]
    for k in range(size):
        x, y, z = middle[0, k], middle[1, k], middle[2, k]
        weighted[0, k] = cell[0] * x + cell[1] * y + cell[2] * z
        weighted[1, k] = cell[1] * x + cell[3] * y + cell[4] * z
        weighted[2, k] = cell[2] * x + cell[4] * y + cell[5] * z
    for k in range(size):
        x, y, z = weighted[0, k], weighted[1, k], weighted[2, k]
        if x == 0 and y == 0 and z == 0:
            continue
        for j in range(k + 1):
            fisher[k, j] += x * middle[0, j] + y * middle[1, j] + z * middle[2, j]


@njit(cache=True, nogil=True, inline="always")
def _exponential(velocity, e, half_step, out):
    x = half_step * (velocity[e, 0] + velocity[e + 1, 0])
    y = half_step * (velocity[e, 1] + velocity[e + 1, 1])
    z = half_step * (velocity[e, 2] + velocity[e + 1, 2])
    a2 = x * x + y * y + z * z
    s = 1 - a2 / 6 * (1 - a2 / 20)
    c = 0.5 - a2 / 24 * (1 - a2 / 30)
    out[0, 0], out[0, 1], out[0, 2] = 1 - c * (y * y + z * z), c * x * y - s * z, c * x * z + s * y
    out[1, 0], out[1, 1], out[1, 2] = c * x * y + s * z, 1 - c * (x * x + z * z), c * y * z - s * x
    out[2, 0], out[2, 1], out[2, 2] = c * x * z - s * y, c * y * z + s * x, 1 - c * (x * x + y * y)


@njit(cache=True, nogil=True, inline="always")
def _multiply(a, b, out):
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]
