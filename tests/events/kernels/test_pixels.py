import numpy as np

from pauca.events.kernels.pixels import count_pixels


def test_counts_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 20, 500).astype(np.uint16), rng.integers(0, 12, 500).astype(np.uint16)
    wide, high = rng.integers(0, 8, 20).astype(np.uint8), rng.integers(0, 8, 12).astype(np.uint8)
    across, down, fitting = (np.ones(n, np.int64) for n in (20, 12, 8))
    count_pixels(x, y, wide, high, across, down, fitting)
    np.testing.assert_array_equal(across, 1 + np.bincount(x, minlength=20))
    np.testing.assert_array_equal(down, 1 + np.bincount(y, minlength=12))
    np.testing.assert_array_equal(fitting, 1 + np.bincount(wide[x] & high[y], minlength=8))
