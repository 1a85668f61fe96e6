import numpy as np
import pytest

from pauca.events.kernels.accumulate import accumulate_moments


@pytest.mark.parametrize("n", [0, 1, 511, 512, 513, 3000])
@pytest.mark.parametrize("k", [2, 3])
def test_moments(n, k):
    rng = np.random.default_rng(n)
    slopes, dt = rng.normal(size=(k, n)).astype(np.float32), rng.uniform(-1, 1, n).astype(np.float32)
    gradient, fisher = np.empty((2, k)), np.empty((3, k, k))
    accumulate_moments(slopes, dt, gradient, fisher)
    u, s = slopes.astype(float), dt.astype(float)
    np.testing.assert_allclose(gradient, [(s * u).sum(1), (s**2 / 2 * u).sum(1)], rtol=1e-4, atol=1e-4)
    expected = [(u * weight) @ u.T for weight in (s**2, s**3 / 2, s**4 / 4)]
    np.testing.assert_allclose(fisher, expected, rtol=1e-4, atol=1e-3)
