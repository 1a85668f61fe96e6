import numpy as np
import pytest

from pauca.events.kernels.parts import accumulate_parts, compare_parts


@pytest.mark.parametrize("k", [2, 3])
def test_sums_over_parts_are_those_of_numpy(k):
    rng = np.random.default_rng(0)
    n = 1003
    slopes = rng.normal(size=(k, n)).astype(np.float32)
    x, y, dt = rng.uniform(-1, 1, (3, n)).astype(np.float32)
    spans, regions = np.full((8, 9), np.nan), np.full((6, 9), np.nan)
    accumulate_parts(slopes, x, y, dt, (3, -1.0, 1.5, 2, -1.0, 1.0), spans, regions)
    u = np.zeros((3, n))
    u[:k] = slopes
    lower = np.tril_indices(3)
    edges = np.arange(9) * n // 8
    for part in range(8):
        window = u[:, edges[part] : edges[part + 1]]
        expected = [*window.sum(axis=1), *(window @ window.T)[lower]]
        np.testing.assert_allclose(spans[part], expected, rtol=1e-5, atol=1e-5)
    region = np.clip(((x + 1) * 1.5).astype(int), 0, 2) + 3 * np.clip((y + 1).astype(int), 0, 1)
    for part in range(6):
        window = (u * dt)[:, region == part]
        expected = [*window.sum(axis=1), *(window @ window.T)[lower]]
        np.testing.assert_allclose(regions[part], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_parts_are_compared_as_by_numpy(k):
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=(5, 40, k))
    sums = np.zeros((6, 9))  # of the last part nothing is known
    for part, u in enumerate(slopes):
        sums[part, :k] = u.sum(axis=0)
        sums[part, 3 : 3 + k * (k + 1) // 2] = (u.T @ u)[np.tril_indices(k)]
    lever = np.arange(1.0, k + 1)
    total, square, regular = compare_parts(sums, lever)
    steps = np.array([np.linalg.solve(u.T @ u, u.sum(axis=0)) for u in slopes])
    assert regular == 5
    assert total == pytest.approx(np.sum(steps * slopes.sum(axis=1)))
    assert square == pytest.approx(np.mean(np.sum((steps * lever) ** 2, axis=1)))
