"""Small positive matrices, where calling a library takes longer than the work."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def factor(matrix, root, least):
    """Write the lower Cholesky factor float64 [k, k] of a symmetric matrix, and tell whether there is one.

    There is none where the matrix is not finite, or where what the parameters before leave of a diagonal element is not
    above `least` times the element: singular, whatever the units are. What is written is then of no use.
    """
    k = len(matrix)
    root[:] = 0
    for i in range(k):
        diagonal = matrix[i, i]
        if not (diagonal > 0 and diagonal < np.inf):
            return False
        for j in range(i + 1):
            rest = matrix[i, j]
            for m in range(j):
                rest -= root[i, m] * root[j, m]
            if j < i:
                root[i, j] = rest / root[j, j]
            elif rest > least * diagonal:  # false for what is not a number
                root[i, i] = np.sqrt(rest)
            else:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def solve_lower(root, right, solution):
    """Write the solution [k] of root solution = right, root lower triangular."""
    for i in range(len(right)):
        rest = right[i]
        for m in range(i):
            rest -= root[i, m] * solution[m]
        solution[i] = rest / root[i, i]


@njit(cache=True, nogil=True, error_model="numpy")
def solve_upper(root, right, solution):
    """Write the solution [k] of root^T solution = right, root lower triangular."""
    for i in range(len(right) - 1, -1, -1):
        rest = right[i]
        for m in range(i + 1, len(right)):
            rest -= root[m, i] * solution[m]
        solution[i] = rest / root[i, i]


@njit(cache=True, nogil=True)
def solve(matrix, right, least, solution):
    """Write the solution [k] of matrix solution = right, and tell whether the matrix has a `factor`."""
    root, white = np.empty_like(matrix), np.empty_like(right)
    if not factor(matrix, root, least):
        return False
    solve_lower(root, right, white)
    solve_upper(root, white, solution)
    return True


@njit(cache=True, nogil=True)
def invert(matrix, least, inverse):
    """Write the inverse [k, k] of a symmetric matrix, and tell whether the matrix has a `factor`."""
    k = len(matrix)
    root, white, unit = np.empty_like(matrix), np.empty(k), np.zeros(k)
    if not factor(matrix, root, least):
        return False
    for i in range(k):
        unit[:] = 0
        unit[i] = 1
        solve_lower(root, unit, white)
        solve_upper(root, white, inverse[i])
    return True
