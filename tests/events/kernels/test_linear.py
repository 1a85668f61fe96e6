import numpy as np
import pytest

from pauca.events.kernels.linear import factor, invert, solve, solve_lower, solve_upper


@pytest.mark.parametrize("k", [1, 3, 6, 21])
def test_factor_and_solutions_are_those_of_numpy(k):
    rng = np.random.default_rng(k)
    half = rng.normal(size=(k, k)) * 10.0 ** rng.uniform(-6, 6, k)[:, None]  # in units that differ
    matrix, right = half @ half.T, rng.normal(size=k)
    root, solution = np.full((k, k), np.nan), np.full(k, np.nan)
    assert factor(matrix, root, 1e-20)
    np.testing.assert_allclose(root @ root.T, matrix, rtol=1e-9, atol=1e-9 * np.abs(matrix).min())
    solve_lower(root, right, solution)
    np.testing.assert_allclose(solution, np.linalg.solve(root, right), rtol=1e-6)
    solve_upper(root, right, solution)
    np.testing.assert_allclose(solution, np.linalg.solve(root.T, right), rtol=1e-6)
    assert solve(matrix, right, 1e-20, solution)
    np.testing.assert_allclose(solution, np.linalg.solve(root.T, np.linalg.solve(root, right)), rtol=1e-6)
    inverse = np.full((k, k), np.nan)
    assert invert(matrix, 1e-20, inverse)
    np.testing.assert_allclose(inverse @ right, solution, rtol=1e-6, atol=1e-9 * np.abs(solution).max())
    assert not invert(np.zeros((k, k)), 1e-20, inverse)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_no_factor_of_what_is_singular_or_not_finite(value):
    root = np.empty((2, 2))
    assert not factor(np.array([[1.0, 0.0], [0.0, value]]), root, 1e-8)
    assert not factor(np.array([[1.0, 1.0], [1.0, 1.0]]), root, 1e-8)
    assert not factor(np.array([[1.0, np.nan], [np.nan, 1.0]]), root, 1e-8)
