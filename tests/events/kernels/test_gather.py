import numpy as np
import pytest

from pauca.events.kernels.gather import gather_bilinear, gather_quadratic


@pytest.mark.parametrize("gather", [gather_bilinear, gather_quadratic])
def test_gradient_of_a_plane_is_its_slope_and_zero_outside(gather):
    row, column = np.mgrid[0:13, 0:14].astype(np.float32)
    slopes = np.stack([3 * column - 2 * row, 7 * row]).astype(np.float32)
    x, y = np.float32([1.3, 4.4, -0.5, np.nan, 1e30]), np.float32([0.7, 3.3, 1.0, 1.0, 1.0])
    slope_x, slope_y = np.empty((2, 5), np.float32)
    gather(x, y, np.uint8([0, 1, 0, 0, 1]), 4, slopes, slope_x, slope_y)
    np.testing.assert_allclose(slope_x, [3, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(slope_y, [-2, 7, 0, 0, 0], atol=1e-5)
